"""``LoKrModule``: the factors of one layer in a network, and what they add to the layer's output."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._layers import convolution, kernel_axes
from ..adapter import LoKrWeights
from ..errors import LoKrMatchError, LoKrValueError
from ..kronecker import Factor, fused_linear, is_compiling, kron_norm, own_forward, plain_autograd
from ..peft import LoKrConfig
from ..trainable import (
    AdapterShapes,
    Products,
    Update,
    added,
    as_computed,
    planned_linear,
    random_rows,
    trainable_dora_ratio,
    weight_norms,
)

# In this order LyCORIS draws the starting values, so that one seed gives the same ones.
_DRAWN = ("lokr_t2", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_w1", "lokr_w1_a", "lokr_w1_b")


class LoKrModule(nn.Module):
    """Adds dW x to the output of a layer whose ``forward`` it replaces (``apply_to``); the layer is not part of it.

    lora_name: its name in a file; path: the layer's in its model
    layer: a Linear or a convolution; config: of the factors, LyCORIS' in ``order`` and ``init_weights``
    expected_share: whether the rows that rank dropout leaves are divided by the share expected of them (musubi-tuner);
        else by 1, or with ``rank_dropout_scale`` by their share (LyCORIS)

    Parameters, ``alpha`` and their names are those of LyCORIS' modules; parameters are fp32 and on the CPU.
    """

    alpha: Tensor

    def __init__(self, lora_name: str, path: str, layer: nn.Module, config: LoKrConfig, expected_share: bool = False):
        super().__init__()
        shapes = AdapterShapes.of(layer, config, config.r)
        whole = shapes.r1 is None and shapes.r2 is None
        self.lora_name, self.path, self.lora_dim = lora_name, path, config.r
        self.scale = config.scaling(alpha=config.r if whole or config.alpha == 0 else config.alpha)
        self.dora: str | None = config.dora
        self.rank_dropout_scale, self.expected_share = config.rank_dropout_scale, expected_share
        self.rank_dropout, self.module_dropout = config.rank_dropout, config.module_dropout
        self.multiplier = 1.0
        self.org_module = [layer]  # in a list: as a submodule it would be trained and saved
        self._products = Products(kernel_axes(layer), *convolution(layer))
        # LyCORIS' alpha: divided by the rank it gives the scale, with rs_lora too.
        self.register_buffer("alpha", torch.tensor(self.scale * config.r))
        self._set(shapes, {kind: torch.empty(shape) for kind, shape in shapes.tensors.items()})
        if self.dora is not None:
            weight = self._floating_weight()
            self.dora_scale = nn.Parameter(weight_norms(weight, self.dora).cpu())
        self._draw()

    def _set(self, shapes: AdapterShapes, tensors: dict[str, Tensor]) -> None:
        """Take these factors in place of those before."""
        for kind in [name for name in self._parameters if name.startswith("lokr_")]:
            del self._parameters[kind]
        for kind, tensor in tensors.items():
            self.register_parameter(kind, nn.Parameter(tensor))
        self.shapes = shapes

    def _draw(self) -> None:
        """The starting values: W2 = 0, or its second half; the others are Kaiming's."""
        zero = "lokr_w2" if self.shapes.r2 is None else "lokr_w2_b"
        for kind in _DRAWN:
            if kind == zero:
                nn.init.zeros_(getattr(self, kind))
            elif kind in self.shapes.tensors:
                nn.init.kaiming_uniform_(getattr(self, kind), a=math.sqrt(5))

    def _floating_weight(self) -> Tensor:
        weight: Tensor = self.org_module[0].weight  # type: ignore[assignment]
        if not weight.is_floating_point() or weight.element_size() < 2:
            raise LoKrValueError(
                "DoRA needs the numbers of the base weight, which is quantised",
                module=self.path,
                expected="a weight in fp32, fp16 or bf16",
                found=str(weight.dtype),
                hint="leave out dora_wd, or do not quantise the model",
            )
        return weight.detach()

    @torch.no_grad()
    def take(self, weights: LoKrWeights) -> None:
        """Replace the factors by those of a file, in the form they have there, and their scale.

        Raises LoKrShapeError if they do not fit the layer.
        """
        shape = (self.shapes.l * self.shapes.k, self.shapes.m * self.shapes.n, *self.shapes.kernel)
        weights = weights.fit(shape)
        (l, m), (k, n, *kernel) = weights.w1.shape, weights.w2.shape
        shapes = AdapterShapes(l, k, m, n, tuple(kernel), weights.w1.rank, weights.w2.rank, tucker=weights.is_tucker)
        tensors = {kind: tensor.float() for kind, tensor in weights.tensors.items()}
        dora_scale = tensors.pop("dora_scale", None)
        if "initial_norm" in tensors:
            raise LoKrValueError(
                "DoRA over stored norms cannot be trained further",
                module=self.lora_name,
                found="initial_norm",
                hint="merge the file into the model first: lokr apply",
            )
        self._set(shapes, {kind: tensor.cpu() for kind, tensor in tensors.items()})
        self.lora_dim = weights.rank or 1
        self.scale, self.dora = weights.scaling, weights.dora_axis
        self.alpha.fill_(self.scale * self.lora_dim)
        if dora_scale is not None:
            axis = (1, -1) if self.dora == "in" else (-1,)
            spread = dora_scale.reshape(*axis, *(1,) * (len(shape) - len(axis)))
            self.dora_scale = nn.Parameter(spread.cpu())

    def check_alpha(self, alpha: float) -> None:
        """Raises LoKrMatchError if a file's alpha stands for another scale than the one that is trained with."""
        whole = self.shapes.r1 is None and self.shapes.r2 is None
        if not whole and not math.isclose(alpha, float(self.alpha), rel_tol=0.01):
            raise LoKrMatchError(
                "The file was trained with another alpha",
                module=self.lora_name,
                expected=f"alpha {float(self.alpha):g}",
                found=f"alpha {alpha:g}",
                hint=f"give --network_alpha (conv_alpha for convolutions) as in the file's training, or "
                f"--dim_from_weights, which takes it from the file; rank {self.lora_dim}",
            )

    def apply_to(self) -> None:
        """Take the place of the layer's forward."""
        layer = self.org_module[0]
        self.org_forward: Any = layer.forward
        layer.forward = self.forward

    def factors(self) -> tuple[Factor, Factor]:
        """W1 (l, m) and W2 (k, n, *kernel), views of the parameters."""
        return self.shapes.factors({kind: getattr(self, kind) for kind in self.shapes.tensors})

    def weights(self) -> LoKrWeights:
        """The update, detached, for the engines and formats of this library."""
        w1, w2 = self.factors()
        detached = w1.map(Tensor.detach), w2.map(Tensor.detach)
        return LoKrWeights(*detached, self.scale, None if self.dora is None else self.dora_scale.detach()).with_alpha()

    @torch.no_grad()
    def merge_to(self) -> None:
        """Add the update, at the multiplier, to the layer's weight in place."""
        weight: Tensor = self.org_module[0].weight  # type: ignore[assignment]
        self.weights().add_to_(weight.data, self.multiplier)

    @torch.no_grad()
    def apply_max_norm(self, max_norm: float) -> tuple[bool, float]:
        """(whether it was scaled, ‖dW‖ afterwards): the factors are scaled alike until ‖dW‖ is at most ``max_norm``."""
        norm = abs(self.scale) * kron_norm(*self.factors())
        if norm <= max_norm:
            return False, norm
        share = (max_norm / norm) ** (1 / len(self.shapes.tensors))
        for kind in self.shapes.tensors:
            getattr(self, kind).mul_(share)
        return True, max_norm

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output for ``x``, plus the update's."""
        if self.multiplier == 0:
            return self.org_forward(x, *args, **kwargs)
        present: Tensor | None = None
        if self.training and self.module_dropout:
            present = torch.rand(1) >= self.module_dropout
            if not is_compiling():
                if not present:
                    return self.org_forward(x, *args, **kwargs)
                present = None
        layer: Any = self.org_module[0]
        own = own_forward(self.org_forward) is layer
        if own and present is None and self.dora is None and not self._products.axes and plain_autograd(x):
            plan, kinds = planned_linear(self.shapes)
            matrices: list[Any] = [self._parameters[kind] for kind in kinds]
            scale, rows = self.scale * self.multiplier, partial(self._kept_rows, x)
            y = fused_linear(layer, x, plan, matrices, scale, rows)
            if y is not None:
                return y
        base = self.org_forward(x, *args, **kwargs)
        return self._added(x, base, layer, present, in_place=own and self.dora is None)

    def _added(self, x: Tensor, base: Tensor, layer: Any, present: Tensor | None, in_place: bool) -> Tensor:
        """``base``, the layer's own output, plus the update for ``x``."""
        w1, w2 = as_computed(x, *self.factors())
        rows, scale, ratio = self._kept_rows(x), self.scale, None
        if self.dora is None:
            scale *= self.multiplier
        else:
            ratio = trainable_dora_ratio(
                *(layer.weight.detach(), w1, w2, scale, self.dora_scale),
                axis=self.dora,
                kept=rows,
            )
        update = Update(w1, w2, scale, rows, ratio, self.dora, present)
        result = added(update, self._products, x, base, base, layer.weight, layer.bias, in_place)
        if self.dora is None or self.multiplier == 1:
            return result
        return torch.lerp(base, result, self.multiplier)

    def _kept_rows(self, x: Tensor) -> Tensor | None:
        """Rank dropout's factor of each row of dW, (out,); None: off."""
        if not (self.training and self.rank_dropout):
            return None
        rescaled = self.rank_dropout_scale and not self.expected_share
        drawn = torch.rand(self.shapes.l * self.shapes.k)
        kept = random_rows(drawn, self.rank_dropout, torch.float32, rescaled).to(x.device)
        return kept / (1 - self.rank_dropout) if self.expected_share else kept
