"""``speed_up``: LoKr layers of other libraries, computed by this one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from .._layers import CONVOLUTION, LINEAR, kind_of
from ..errors import LoKrMatchError
from ._find import base_of, family_of, lokr_layers
from ._flat import FlatForward
from ._forward import FastForward
from ._place import Placed
from ._trial import differs, signature


@dataclass(frozen=True)
class SpeedUpReport:
    """What ``speed_up`` did: the names of the LoKr layers that are sped up; the others, each with the reason."""

    sped_up: tuple[str, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        text = f"{len(self.sped_up)} LoKr layers sped up"
        reasons = Counter(self.left.values())
        return "; ".join([text, *(f"{count} left as they were: {reason}" for reason, count in reasons.items())])


class SpeedUpHandle:
    """LoKr layers that are sped up. As a context manager it gives their own forwards back at the end.

    report: what was done
    """

    def __init__(self, report: SpeedUpReport, placed: list[Placed]):
        self.report = report
        self._placed = placed

    def remove(self) -> None:
        """Give the layers their own forwards back, as they were; no effect the second time."""
        for placed in self._placed:
            placed.remove()
        self._placed = []

    def __enter__(self) -> SpeedUpHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"SpeedUpHandle({self.report})"


def speed_up(model: nn.Module) -> SpeedUpHandle:
    """Compute the LoKr layers of other libraries in ``model`` from their factors, without building dW.

    model: with PEFT's layers in it (``get_peft_model``), or whose layers call those of a network beside it (LyCORIS,
        ``networks.lokr`` of sd-scripts and musubi-tuner, ai-toolkit), or that network

    The parameters stay those of the layers and are read in each call, so that optimizers, saved files, merging,
    switching adapters on and off and changing them are as before; so is what dropout draws, with the same seed. Layers
    that cannot be computed so stay as they were, and the handle's ``report`` tells why; so do single calls, such as
    those of a merged layer. To be called before ``torch.compile``.

    Returns a handle whose ``remove`` gives the layers their own forwards back.

    Raises LoKrMatchError if ``model`` has no LoKr layers of another library.

    >>> from peft import LoKrConfig, get_peft_model  # doctest: +SKIP
    >>> model = get_peft_model(unet, LoKrConfig(target_modules=["to_q", "to_v"]))  # doctest: +SKIP
    >>> handle = lokr_core.speed_up(model)  # doctest: +SKIP
    >>> print(handle.report)  # doctest: +SKIP
    64 LoKr layers sped up
    """
    layers = lokr_layers(model)
    if not layers:
        raise LoKrMatchError(
            "There is no LoKr layer to speed up",
            expected="PEFT's LoKr layers in the model, or a network of LyCORIS, kohya's or ai-toolkit's LoKr layers",
            found=f"a {type(model).__name__}, no module of which holds lokr_w1 or lokr_w1_a of another library",
            hint="add the adapter first; layers of lokr_core.get_lokr_model are as fast already",
        )
    placed: dict[str, Placed] = {}
    left: dict[str, str] = {}
    tried: dict[tuple, str | None] = {}
    for name, layer in layers.items():
        try:
            placed[name] = Placed(_checked(layer, tried))
        except ValueError as reason:
            left[name] = str(reason)
    return SpeedUpHandle(SpeedUpReport(tuple(placed), left), list(placed.values()))


def _checked(layer: nn.Module, tried: dict[tuple, str | None]) -> FastForward:
    """What computes the layer. Raises ValueError with the reason if nothing can.

    tried: what came of the trials, by signature
    """
    placed = vars(layer).get("forward")
    if placed is not None:
        if isinstance(fast := getattr(placed, "__self__", None), FastForward):
            return fast  # it is sped up already, or is a copy of such a layer
        raise ValueError("its forward is another function already, such as a parametrisation's or accelerate's")
    family, base = family_of(layer), base_of(layer)
    if family is None:
        raise ValueError(f"{type(layer).__module__}.{type(layer).__name__} is an unknown class")
    if base is None or kind_of(base) not in (LINEAR, CONVOLUTION):
        raise ValueError(f"it adapts a {type(base).__name__}, which is neither a Linear nor a convolution")
    fast = family(layer, base)
    fast.check()
    if isinstance(fast, FlatForward):
        key = signature(fast)
        if key not in tried:
            tried[key] = differs(fast)
        if reason := tried[key]:
            raise ValueError(reason)
    return fast
