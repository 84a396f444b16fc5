"""``LoKrLayers``: an adapter to train whose layers are in the model for as long as a block runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from .._layers import CONVOLUTION, LINEAR, kernel_axes, kind_of
from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrMatchError, LoKrValueError
from ..peft import LoKrConfig
from ._all_layers import replace_module
from ._layer import Conv1d, Conv2d, Conv3d, Linear, LoKrLayer

_NAME = "default"
_BY_AXES = (Linear, Conv1d, Conv2d, Conv3d)


class LoKrLayers:
    """One adapter's layers for a model that a host moves, patches or restores by its own names between two runs.

    modules: paths of Linears and convolutions, which may be a host's own classes with torch's attributes
    config: the form of the factors; its ``target_modules`` is not read
    device: of the parameters; None: each weight's

    The parameters are at least fp32, and the model is unchanged outside ``inserted``. Raises LoKrMatchError if a path
    is unknown, LoKrValueError if a module is of another kind.

    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    >>> layers = LoKrLayers(model, ["0"], LoKrConfig(r=2, decompose_factor=2))
    >>> with layers.inserted():
    ...     type(model[0]) is Linear, model(torch.zeros(1, 8)).shape
    (True, torch.Size([1, 8]))
    >>> type(model[0]) is nn.Linear, list(layers.parameters())
    (True, ['0.lokr_w1', '0.lokr_w2'])
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Iterable[str],
        config: LoKrConfig,
        device: torch.device | None = None,
    ):
        self._model = model
        self._layers = {path: _layer(model, path, config, device) for path in modules}

    def __len__(self) -> int:
        return len(self._layers)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters: ``path.kind`` -> parameter."""
        return {
            f"{path}.{kind}": parameter
            for path, layer in self._layers.items()
            for kind, parameter in layer.adapter_tensors(_NAME).items()
        }

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """While the block runs, the layers take the places of the model's own, which are put back afterwards."""
        with ExitStack() as undo:
            for path, layer in self._layers.items():
                undo.callback(replace_module, self._model, path, layer.base_layer)
                replace_module(self._model, path, layer)
            yield

    def train(self, mode: bool = True) -> None:
        """Whether dropout acts. The model's own layers keep their mode."""
        for layer in self._layers.values():
            layer.training = mode

    def to_adapter(self, prefix: str = "") -> Adapter:
        """A copy of the adapter on the CPU, under the paths with ``prefix`` before them."""
        found = {prefix + path: _copied(layer.lokr_weights(_NAME)) for path, layer in self._layers.items()}
        return Adapter(found, producer="lokr_core")


def _copied(weights: LoKrWeights) -> LoKrWeights:
    w1, w2, magnitude = weights.w1.map(_on_cpu), weights.w2.map(_on_cpu), weights.dora_scale
    return replace(weights, w1=w1, w2=w2, dora_scale=None if magnitude is None else _on_cpu(magnitude))


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True)


def trainable_modules(model: nn.Module) -> list[str]:
    """The paths of the Linears and convolutions of ``model`` that have a weight.

    >>> trainable_modules(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv2d(4, 4, 3)))
    ['0', '2']
    """
    kinds = (LINEAR, CONVOLUTION)
    modules = ((path, module) for path, module in model.named_modules() if kind_of(module) in kinds)
    return [path for path, module in modules if getattr(module, "weight", None) is not None]


def _layer(model: nn.Module, path: str, config: LoKrConfig, device: torch.device | None) -> LoKrLayer:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise LoKrMatchError("The model has no such module", module=path) from None
    if kind_of(module) not in (LINEAR, CONVOLUTION):
        raise LoKrValueError(
            "Only a Linear or a convolution can have an adapter to train", module=path, found=type(module).__name__
        )
    layer = _BY_AXES[kernel_axes(module)](module)
    layer.update_layer(_NAME, config.r, config.alpha, config, device=device, fp32=True)
    layer.active_adapter = [_NAME]
    layer.set_adapter([_NAME])
    return layer
