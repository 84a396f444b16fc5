"""The engine that changes weights, and puts them back bit for bit."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Container, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .errors import LoKrError, LoKrValueError, blame
from .handle import Factors, Setting, WeightsHandle
from .matching import Match, Report, Target, left_out, resolve, source_of
from .models import Projections, is_pipeline, parts_of, restored_from_copies, same_sample, sample, view_of

__all__ = ["MergeHandle", "merge_adapter"]


class _Weight:
    """One weight that adapters are merged into: a copy of the base, and each handle's updates.

    The weight is always computed anew from that copy, so any order of adding, changing and removing is exact.
    """

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.base = tensor.detach().clone()
        self.written = tensor.new_empty(0)
        self.layers: dict[int, tuple[MergeHandle, list[Match]]] = {}

    def refresh(self) -> None:
        """base, then each handle's updates in the order in which they came. DoRA refers to the base, so the order
        does not matter but for rounding."""
        with torch.inference_mode(self.tensor.is_inference()), torch.no_grad():
            data = self.tensor.detach()
            data.copy_(self.base)
            for handle, matches in self.layers.values():
                for match in matches:
                    with blame(module=match.module, file=handle.report.adapter.path):
                        match.add_to_(data, handle.strength_of(match), self.base.to(data.device))
            self.written = sample(data)

    def check_written(self) -> None:
        """Raises LoKrError if somebody else has changed the weight since ``refresh``: that change would be lost."""
        if self.layers and (self.tensor.is_meta or not same_sample(self.written, sample(self.tensor))):
            handle, matches = next(iter(self.layers.values()))
            raise LoKrError(
                "Somebody else has changed a weight since the adapter was merged into it",
                file=handle.report.adapter.path,
                module=matches[0].module,
                expected="the weight as the merge left it",
                found="no numbers, offloaded to meta" if self.tensor.is_meta else "other numbers",
                hint="undo what was done later: pipe.unfuse_lora(), pipe.remove_all_hooks()",
            )


# The weights that are merged into now; each is kept by the handles that hold it.
_weights: weakref.WeakSet[_Weight] = weakref.WeakSet()


def _key(tensor: Tensor) -> Hashable:
    """What identifies a weight: its memory, since ``state_dict()`` makes new tensors on each call."""
    if tensor.layout != torch.strided or tensor.data_ptr() == 0:
        return id(tensor)
    return (tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def _refresh_all(weights: Iterable[_Weight]) -> BaseException | None:
    """Refresh every weight, and return the first exception that was raised meanwhile.

    KeyboardInterrupt is raised only after every weight is consistent; a half-restored model is useless.
    """
    problem: BaseException | None = None
    for weight in weights:
        while True:
            try:
                weight.refresh()
            except KeyboardInterrupt as interrupt:
                problem = problem or interrupt
                continue
            except BaseException as error:
                problem = problem or error
            break
    return problem


class MergeHandle(WeightsHandle):
    """An adapter merged into a model (see ``Handle``). ``remove()`` restores every weight bit for bit.

    ``strength`` is a number. While the handle lives it keeps a copy of each weight it changed; a changed setting
    computes the weights whose strengths differ from that copy.
    """

    def __init__(self, report: Report, matches: Iterable[Match], strength: float, factors: Factors = None):
        super().__init__(report, matches, strength, factors)
        self._held: list[_Weight] = []
        # Of a pipeline, whose weights others change and replace too.
        self._modules: Mapping[str, nn.Module] = {}
        self._projections: Projections | None = None

    def _change(self, setting: Setting, factors: dict[Any, float]) -> None:
        self._check_written()
        super()._change(setting, factors)

    def _refresh(self, matches: list[Match]) -> None:
        for weight in self._weights_of(matches):
            weight.refresh()

    def _check_written(self) -> None:
        """Find a pipeline's weights where others have put them. Raises LoKrError if they have other numbers now, or
        if its projections were fused or split since."""
        if self._projections is not None and self._held:
            self._projections.check()
        for weight in self._held if self._modules else ():
            slot = weight.layers[id(self)][1][0].slot
            found = self._modules[slot.module]._parameters.get(slot.parameter)
            weight.tensor = weight.tensor if found is None else found
            weight.check_written()

    def _restore(self, matches: list[Match]) -> None:
        _refresh_all(self._weights_of(matches))

    def _weights_of(self, matches: list[Match]) -> list[_Weight]:
        wanted = set(matches)
        return [weight for weight in self._held if not wanted.isdisjoint(weight.layers[id(self)][1])]

    def forget(self) -> None:
        """Release the weights without restoring them."""
        self._let_go()
        self._held = []

    def remove(self) -> None:
        """Take the adapter out. Others merged into the same weights stay. Calling it again does nothing.

        KeyboardInterrupt is raised after all weights are restored. Raises LoKrError, with everything as it was, if a
        pipeline's weights were changed by others since: their change would be lost.
        """
        self._check_written()
        self._let_go()
        # Restore in reverse order: if two weights overlap in memory, the later backup already contains the earlier
        # update.
        problem = _refresh_all(reversed(self._held))
        if problem is None or isinstance(problem, KeyboardInterrupt):
            self._held = []
        if problem is not None:
            raise problem

    def _let_go(self) -> None:
        self._removed, self._matches = True, []
        for weight in self._held:
            weight.layers.pop(id(self), None)

    def _merge(self, tensors: Mapping[Hashable, Tensor], by_key: Mapping[Hashable, list[Match]]) -> None:
        """Merge into each weight; ``tensors``, ``by_key``: its key -> the weight, the updates that it takes."""
        # A weight's memory may have moved since it was merged into (``model.to``), so it is looked up as it is now.
        known = {_key(weight.tensor): weight for weight in _weights}
        try:
            for key, matches in by_key.items():
                weight = known.get(key) or _Weight(tensors[key])
                if self._modules:
                    weight.check_written()
                _weights.add(weight)
                self._held.append(weight)
                weight.layers[id(self)] = (self, matches)
                weight.refresh()
        except BaseException:
            self.remove()
            raise


def merge_adapter(
    model: Any,
    adapter: Adapter,
    strength: float = 1.0,
    *,
    target: Target | None = None,
    factors: Factors = None,
    expert: str = "",
    components: Collection[str] | None = None,
) -> MergeHandle:
    """Merge ``adapter`` into the weights of ``model``, in place, and return the handle that can take it out again.

    model: any ``nn.Module``, or a dict of weight name -> tensor such as a state dict; its tensors are changed; or a
    diffusers pipeline: its UNet or transformers and its text encoders
    strength: a number that multiplies the update (with DoRA: W + strength · (W' - W)); ``handle.strength`` changes it
    target: names and shapes of the weights to change, if these are not all of the model's
    factors: multiplies the strength module by module; ``handle.set_factors`` says what it may be, and changes it
    expert: "high" or "low", of an adapter for a model of two experts (Wan 2.2); "": the one that the model is, if it
    tells
    components: names of the pipeline's parts that take the adapter; None: all

    Any number of adapters can be merged at once, and changed and removed in any order. Modules that belong to no
    weight are refused in ``handle.report``. Raises LoKrMatchError if no module belongs to the model, LoKrValueError if
    ``strength`` is not a finite number (``attach`` takes a function too); after any exception the model is what it was.

    >>> model = torch.nn.Linear(6, 4)
    >>> weights = LoKrWeights(Factor(torch.randn(2, 3)), Factor(torch.randn(2, 2)))
    >>> before = model.weight.clone()
    >>> with merge_adapter(torch.nn.Sequential(model), Adapter({"0": weights}), 0.5) as handle:
    ...     print(handle.report.headline, torch.equal(model.weight, before))
    1 of 1 modules applied False
    >>> torch.equal(model.weight, before)
    True
    """
    view = view_of(model, adapter, expert, wrappers=target is not None)
    matches, report = resolve(adapter, target or Target.of(view.known(), source_of(model)), view.expert)
    report.notes += view.notes
    others = left_out(matches, components)
    report.refuse(others)
    report.raise_if_nothing_matched()
    matches = [match.running(view.fused) for match in matches if match.module not in others]
    handle = MergeHandle(report, matches, strength, factors)
    if is_pipeline(model):
        handle._modules, handle._projections = view.modules, Projections(parts_of(model).values(), _refuse_change)
    by_key: dict[Hashable, list[Match]] = {}
    for match in matches:
        by_key.setdefault(_key(view.tensors[match.weight]), []).append(match)
    _check_memory(view.tensors, by_key, restored_from_copies(view.modules.values()), report)
    handle._merge({key: view.tensors[found[0].weight] for key, found in by_key.items()}, by_key)
    return handle


def _check_memory(
    tensors: Mapping[str, Tensor], by_key: Mapping[Hashable, list[Match]], copied: Container[int], report: Report
) -> None:
    """Note the weights that have several names in ``report``.

    Raises LoKrValueError if one cannot be changed; ``copied``: ids of those whose numbers come back from a copy.
    """
    names: dict[Hashable, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(_key(tensor), []).append(name)
    shared = [names[key] for key in by_key if len(names[key]) > 1]
    if shared:
        report.notes.append(
            f"{len(shared)} changed weights are shared, and change under each of their names: {' = '.join(shared[0])}"
            + (" and others" if len(shared) > 1 else "")
        )
    for matches in by_key.values():
        tensor = tensors[matches[0].weight]
        problem = _unwritable(tensor, id(tensor) in copied)
        if problem:
            raise LoKrValueError(
                problem,
                file=report.adapter.path,
                module=matches[0].module,
                expected="a loaded weight",
                found=f"{matches[0].weight} {tuple(tensor.shape)} on {tensor.device}",
                hint="load the model's weights, without offloading, before merging; or use attach",
            )


def _unwritable(tensor: Tensor, copied: bool) -> str:
    """Why a merge into ``tensor`` would be lost, "" if it would not; ``copied``: its numbers come back from a copy."""
    if tensor.is_meta:
        return "A weight has no numbers: it is on the meta device"
    if copied:
        return "A weight is offloaded, and restored from a copy after each forward: a merge would be lost"
    if type(tensor).dequantize is not Tensor.dequantize:  # torchao's, quanto's
        return f"A weight is quantised, a {type(tensor).__name__}, and cannot be changed in place"
    return ""


def _refuse_change() -> None:
    """Raises LoKrValueError: copies of the merged weights run, or their originals again."""
    raise LoKrValueError(
        "fuse_qkv_projections or its opposite was called while an adapter was merged",
        expected="the projections as they were when it was merged",
        hint="undo it, remove the adapter, and then do both again",
    )
