"""The engine that changes weights, and puts them back bit for bit."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, MutableMapping

import torch
from torch import Tensor, nn

from .adapter import Adapter, LoKrWeights, check_strength
from .report import APPLIED, REFUSED, Report
from .resolve import Match, Target, resolve

__all__ = ["MergeHandle", "merge_adapter"]


class _Weight:
    """One weight that adapters are merged into: a copy of what it was, and who has added what since.

    The weight is always computed anew from that copy, so any order of adding, changing and removing is exact.
    """

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.base = tensor.detach().clone()
        self.layers: dict[int, tuple[MergeHandle, list[Match]]] = {}

    def refresh(self) -> None:
        """base, then each handle's updates in the order in which they came. DoRA refers to the base, so the order
        does not matter but for rounding."""
        with torch.inference_mode(self.tensor.is_inference()), torch.no_grad():
            data = self.tensor.detach()
            data.copy_(self.base)
            for handle, matches in self.layers.values():
                for match in matches:
                    match.add_to_(data, handle.strength, self.base.to(data.device))


# Which tensors are being merged into. A tensor is known by its identity or, since state_dict() makes new tensors on
# each call, by its memory; both stay taken as long as the entry, which some handle holds, keeps the tensor alive.
_weights: weakref.WeakValueDictionary[tuple, _Weight] = weakref.WeakValueDictionary()


def _weight_of(tensor: Tensor) -> _Weight:
    memory = (tensor.device, tensor.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
    keys = [("tensor", id(tensor))] + ([("memory", *memory)] if tensor.data_ptr() else [])
    weight = next((w for w in map(_weights.get, keys) if w is not None), None) or _Weight(tensor)
    for key in keys:
        _weights[key] = weight
    return weight


class MergeHandle:
    """An adapter merged into a model. ``remove()``, or leaving a ``with`` block, puts every weight back bit for bit.

    ``report`` tells what became of each module. While the handle lives it keeps a copy of each weight it changed.
    """

    def __init__(self, report: Report, strength: float):
        self.report = report
        self.strength = strength
        self._held: list[_Weight] = []

    def set_strength(self, strength: float) -> None:
        """Merge anew at ``strength``; on any exception, KeyboardInterrupt too, the former strength is in force."""
        strength, before = check_strength(strength), self.strength
        if strength == before:
            return
        self.strength = strength
        try:
            self._refresh(self._held)
        except BaseException:
            self.strength = before
            self._refresh(self._held)
            raise

    def remove(self) -> None:
        """Take the adapter out. Others merged into the same weights stay. Calling it again does nothing."""
        for weight in self._held:
            weight.layers.pop(id(self), None)
        self._refresh(self._held)
        self._held = []

    def __enter__(self) -> MergeHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _merge(self, places: Iterable[tuple[Tensor, list[Match]]]) -> None:
        try:
            for tensor, matches in places:
                weight = _weight_of(tensor)
                self._held.append(weight)
                weight.layers[id(self)] = (self, matches)
                weight.refresh()
        except BaseException:
            self.remove()
            raise

    @staticmethod
    def _refresh(weights: list[_Weight]) -> None:
        for weight in weights:
            weight.refresh()


def merge_adapter(
    model: nn.Module | MutableMapping[str, Tensor], adapter: Adapter, strength: float = 1.0
) -> MergeHandle:
    """Merge ``adapter`` into the weights of ``model``, in place, and return the handle that can take it out again.

    model: any ``nn.Module``, or a dict of weight name -> tensor such as a state dict; its tensors are changed
    strength: multiplies the update (with DoRA: W + strength · (W' - W)); ``handle.set_strength(s)`` changes it

    Any number of adapters can be merged at once, and changed and removed in any order. Modules that belong to no
    weight are refused in ``handle.report``. Raises LoKrMatchError where none belongs, LoKrValueError for a strength
    that is no finite number; after any exception the model is what it was.

    >>> model = torch.nn.Linear(6, 4)
    >>> weights = LoKrWeights(Factor(torch.randn(2, 3)), Factor(torch.randn(2, 2)))
    >>> before = model.weight.clone()
    >>> with merge_adapter(torch.nn.Sequential(model), Adapter({"0": weights}), 0.5) as handle:
    ...     print(handle.report.headline, torch.equal(model.weight, before))
    1 of 1 modules applied False
    >>> torch.equal(model.weight, before)
    True
    """
    strength = check_strength(strength)
    tensors = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
    matches, report = resolve(adapter, Target.of(tensors))
    report.raise_if_nothing_matched()
    by_weight: dict[str, list[Match]] = {}
    for match in matches:
        by_weight.setdefault(match.weight, []).append(match)
    handle = MergeHandle(report, strength)
    handle._merge((tensors[name], found) for name, found in by_weight.items())
    return handle
