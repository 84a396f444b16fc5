"""``LoKrNetwork``: the adapters of a model's layers, with the methods that sd-scripts and musubi-tuner call."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import load_tensors
from ..errors import LoKrMatchError, LoKrValueError, blame
from ._arguments import Arguments
from ._groups import Groups, groups
from ._module import LoKrModule
from ._save import save
from ._targets import Layer, config_of, text_encoder_layers, text_encoders, unet_layers

logger = logging.getLogger(__name__)


class LoKrNetwork(nn.Module):
    """LoKr adapters of a denoiser and of text encoders.

    ``unet_loras`` and ``text_encoder_loras`` hold them. ``apply_to`` puts them in force and makes them submodules,
    under the names that a file has for them; the models hold no parameter of the network.
    """

    def __init__(
        self,
        text_encoder: Any,
        unet: nn.Module,
        arguments: Arguments,
        multiplier: float = 1.0,
        modules: Mapping[str, list[LoKrModule]] | None = None,
        expected_share: bool = False,
    ):
        """modules: by the prefix of their names; None: new ones, as ``arguments`` mean
        expected_share: see ``LoKrModule``
        """
        super().__init__()
        self.arguments, self.multiplier = arguments, multiplier
        # sd-scripts asks whether it has to run the text encoder in training.
        self.train_t5xxl, self.train_llm_adapter = arguments.train_t5xxl, arguments.train_llm_adapter
        if modules is None:
            encoders = {
                prefix: _made(text_encoder_layers(prefix, encoder, arguments), arguments, expected_share)
                for prefix, encoder in text_encoders(text_encoder).items()
            }
            modules = {**encoders, "": _made(unet_layers(unet, arguments), arguments, expected_share)}
        self._by_encoder = {prefix: found for prefix, found in modules.items() if prefix}
        self.unet_loras = list(modules.get("", ()))
        self.text_encoder_loras = [module for found in self._by_encoder.values() for module in found]
        self.set_multiplier(multiplier)
        counts = len(self.text_encoder_loras), len(self.unet_loras)
        logger.info("LoKr: %d layers of text encoders, %d of the denoiser", *counts)
        if not any(counts):
            raise LoKrMatchError(
                "No layer of this model is to be trained",
                expected="layers that the preset or the patterns name",
                found=f"a {type(unet).__name__}",
                hint="check preset, exclude_patterns and network_reg_dims in --network_args",
            )

    def _adapters(self) -> list[LoKrModule]:
        return [*self.text_encoder_loras, *self.unet_loras]

    def set_multiplier(self, multiplier: float) -> None:
        """Set what multiplies all updates; 0 gives the base model."""
        self.multiplier = multiplier
        for module in self._adapters():
            module.multiplier = multiplier

    def apply_to(self, text_encoder: Any, unet: Any, apply_text_encoder: bool = True, apply_unet: bool = True) -> None:
        """Put the adapters in force: those of the text encoders, of the denoiser, or of both."""
        if not apply_text_encoder:
            self.text_encoder_loras, self._by_encoder = [], {}
        if not apply_unet:
            self.unet_loras = []
        for module in self._adapters():
            module.apply_to()
            self.add_module(module.lora_name, module)

    def is_mergeable(self) -> bool:
        """True: ``merge_to`` works on any model whose weights are not quantised."""
        return True

    def merge_to(self, text_encoder: Any, unet: Any, weights_sd: Any, dtype: Any = None, device: Any = None, **_: Any):
        """Add the updates to the models' weights, at the multiplier. Only a network made from a file has any."""
        for module in self._adapters():
            with blame(module=module.lora_name):
                module.merge_to()

    def load_weights(self, file: str | os.PathLike) -> dict[str, list[str]]:
        """Take the numbers of a file of this network or of LyCORIS', made with the same arguments.

        Returns the keys that are missing in the file and those that are not used, for the trainer's log. Raises
        LoKrFileError if the file is damaged, LoKrMatchError if it fits no layer, or alpha or a shape differs.
        """
        tensors, _ = load_tensors(file)
        with blame(file=file):
            self._check(tensors)
        missing, unexpected = self.load_state_dict(tensors, strict=False)
        return {name: keys for name, keys in (("missing keys", missing), ("unexpected keys", unexpected)) if keys}

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises LoKrMatchError if the tensors are not this network's."""
        own = self.state_dict()
        if own.keys().isdisjoint(tensors):
            raise LoKrMatchError(
                "The file has no layer of this network",
                expected=f"keys such as {next(iter(own), 'none: apply_to comes first')}",
                found=f"keys such as {next(iter(tensors), 'none')}",
                hint="lokr convert --to lokr --names kohya writes the names that trainers read",
            )
        for key, tensor in tensors.items():
            if key in own and tensor.shape != own[key].shape:
                raise LoKrMatchError(
                    "The file's factors have another shape",
                    module=key,
                    expected=tuple(own[key].shape),
                    found=tuple(tensor.shape),
                    hint="give network_dim and network_args as in the file's training, or --dim_from_weights",
                )
        for module in self._adapters():
            alpha = tensors.get(f"{module.lora_name}.alpha")
            if alpha is not None:
                module.check_alpha(float(alpha))

    def save_weights(self, file: str | os.PathLike, dtype: torch.dtype | None, metadata: dict[str, str] | None) -> None:
        """Write the adapters under the names and with the alphas of LyCORIS, and sd-scripts' two hashes.

        dtype: of the factors, None for their own; metadata: the trainer's. Another suffix than ``.safetensors`` gives a
        pickle, as in the trainers.
        """
        save(self.state_dict(), Path(file), dtype, metadata or {})

    def apply_max_norm_regularization(self, max_norm_value: float, device: Any) -> tuple[int, float, float]:
        """Scale updates down to the norm ``max_norm_value``. Returns (how many were scaled, mean norm, largest)."""
        done = [module.apply_max_norm(float(max_norm_value)) for module in self._adapters()]
        norms = [norm for _, norm in done]
        return sum(scaled for scaled, _ in done), sum(norms) / len(norms), max(norms)

    def prepare_optimizer_params(
        self,
        text_encoder_lr: float | Sequence[float] | None = None,
        unet_lr: float | None = None,
        learning_rate: float | None = None,
    ) -> Groups:
        """The parameters in groups with their learning rates, and what each group is.

        text_encoder_lr: one, or one of each text encoder (the first counts for the others); None: ``learning_rate``
        unet_lr: likewise
        """
        self.requires_grad_(True)
        given = text_encoder_lr if isinstance(text_encoder_lr, Sequence) else [text_encoder_lr]
        of_unet, of_text = self.arguments.loraplus
        reg_lrs = self.arguments.reg_lrs or {}
        found: list[Groups] = []
        for i, modules in enumerate(self._by_encoder.values()):
            lr = given[i if i < len(given) else 0] if given else None
            name = f"textencoder {i + 1}" if len(self._by_encoder) > 1 else "textencoder"
            found.append(groups(modules, learning_rate if lr is None else lr, of_text, reg_lrs, name))
        rate = learning_rate if unet_lr is None else unet_lr
        found.append(groups(self.unet_loras, rate, of_unet, reg_lrs, "unet"))
        return [group for some, _ in found for group in some], [name for _, names in found for name in names]

    prepare_optimizer_params_with_multiple_te_lrs = prepare_optimizer_params

    def enable_gradient_checkpointing(self) -> None:
        """Nothing to do: the layers are called again by the model's own checkpointing."""

    def prepare_grad_etc(self, *_: Any) -> None:
        """Train all parameters."""
        self.requires_grad_(True)

    def on_epoch_start(self, *_: Any) -> None:
        """Switch dropout on."""
        self.train()

    def on_step_start(self, *_: Any) -> None:
        """Nothing to do."""

    def get_trainable_params(self) -> Iterator[nn.Parameter]:
        """All parameters."""
        return self.parameters()


def _made(layers: Iterator[Layer], arguments: Arguments, expected_share: bool) -> list[LoKrModule]:
    """New adapters of ``layers``, without those that ``arguments`` leave out."""
    found: dict[str, LoKrModule] = {}
    for layer in layers:
        config = config_of(layer, arguments)
        if config is None:
            continue
        if layer.lora_name in found:
            raise LoKrValueError(
                "Two layers have one name in a file",
                module=layer.lora_name,
                found=f"{found[layer.lora_name].path} and {layer.path}",
                hint="leave one out with exclude_patterns",
            )
        found[layer.lora_name] = LoKrModule(layer.lora_name, layer.path, layer.module, config, expected_share)
    return list(found.values())
