"""The engine that changes weights, and puts them back bit for bit."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping

import torch
from torch import Tensor, nn

from .adapter import Adapter, check_strength
from .errors import LoKrError, LoKrValueError
from .matching import Match, Report, Target, resolve

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
                    try:
                        match.add_to_(data, handle.strength_of(match), self.base.to(data.device))
                    except LoKrError as error:
                        error.module = error.module or match.module
                        error.file = error.file or handle.report.adapter.path
                        raise


# The weights that are merged into now; each is kept by the handles that hold it.
_weights: weakref.WeakSet[_Weight] = weakref.WeakSet()


def _key(tensor: Tensor) -> Hashable:
    """What a weight is known by: its memory, since ``state_dict()`` makes new tensors on each call."""
    if tensor.layout != torch.strided or tensor.data_ptr() == 0:
        return id(tensor)
    return (tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def _refresh_all(weights: Iterable[_Weight]) -> BaseException | None:
    """Refresh every weight, whatever happens meanwhile, and return the first thing that did.

    An interrupt is for the caller to hear when all is done: half the weights of a model are worth nothing.
    """
    problem = None
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


class MergeHandle:
    """An adapter merged into a model. ``remove()``, or leaving a ``with`` block, puts every weight back bit for bit.

    ``report`` tells what became of each module. While the handle lives it keeps a copy of each weight it changed.
    """

    def __init__(self, report: Report, strength: float, factors: Callable[[str], float] | None = None):
        self.report = report
        self.strength = strength
        self._factors = factors
        self._held: list[_Weight] = []
        self._removed = False

    def strength_of(self, match: Match) -> float:
        """The strength of one module's update: ``strength``, times the module's own factor."""
        factor = 1.0 if self._factors is None else check_strength(self._factors(match.slot.module))
        return self.strength * factor

    def set_strength(self, strength: float) -> None:
        """Merge anew at ``strength``; on any exception, KeyboardInterrupt too, the former strength is in force.

        Raises LoKrValueError for a strength that is no finite number, LoKrError after ``remove()``.
        """
        self._change(check_strength(strength), self._factors)

    def set_strengths(self, factors: Callable[[str], float] | None) -> None:
        """Merge anew with the strength multiplied module by module: by a function from the model's module name to a
        factor, or not at all. Weights whose strengths stay are left alone; exceptions are as in ``set_strength``.
        """
        self._change(self.strength, factors)

    def _change(self, strength: float, factors: Callable[[str], float] | None) -> None:
        if self._removed:
            raise LoKrError(
                "This adapter has been removed from the model",
                file=self.report.adapter.path,
                hint="merge it again with merge_adapter",
            )
        before, were = (self.strength, self._factors), self._strengths()
        self.strength, self._factors = strength, factors
        changed = self._held
        try:
            now = self._strengths()
            changed = [weight for weight, old, new in zip(self._held, were, now, strict=True) if old != new]
            for weight in changed:
                weight.refresh()
        except BaseException:
            self.strength, self._factors = before
            _refresh_all(changed)
            raise

    def _strengths(self) -> list[list[float]]:
        """Of each weight that is held, the strengths of what this handle adds to it."""
        return [[self.strength_of(match) for match in self._matches_in(weight)] for weight in self._held]

    def _matches_in(self, weight: _Weight) -> list[Match]:
        return weight.layers[id(self)][1]

    def forget(self) -> None:
        """Let go of the weights as they are: they have been loaded anew, and nothing is to be put back into them."""
        self._removed = True
        for weight in self._held:
            weight.layers.pop(id(self), None)
        self._held = []

    def remove(self) -> None:
        """Take the adapter out. Others merged into the same weights stay. Calling it again does nothing.

        A KeyboardInterrupt is raised when all weights are back.
        """
        self._removed = True
        for weight in self._held:
            weight.layers.pop(id(self), None)
        # The last one first: two weights may share memory in part, and then the copy of the later has the earlier's
        # update in it.
        problem = _refresh_all(reversed(self._held))
        if problem is None or isinstance(problem, KeyboardInterrupt):
            self._held = []
        if problem is not None:
            raise problem

    def __enter__(self) -> MergeHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def _merge(self, places: Iterable[tuple[Tensor, list[Match]]]) -> None:
        # A weight's memory may have moved since it was merged into (``model.to``), so it is looked up as it is now.
        known = {_key(weight.tensor): weight for weight in _weights}
        try:
            for tensor, matches in places:
                weight = known.get(_key(tensor)) or _Weight(tensor)
                _weights.add(weight)
                self._held.append(weight)
                weight.layers[id(self)] = (self, matches)
                weight.refresh()
        except BaseException:
            self.remove()
            raise


def merge_adapter(
    model: nn.Module | MutableMapping[str, Tensor],
    adapter: Adapter,
    strength: float = 1.0,
    *,
    target: Target | None = None,
    factors: Callable[[str], float] | None = None,
) -> MergeHandle:
    """Merge ``adapter`` into the weights of ``model``, in place, and return the handle that can take it out again.

    model: any ``nn.Module``, or a dict of weight name -> tensor such as a state dict; its tensors are changed
    strength: multiplies the update (with DoRA: W + strength · (W' - W)); ``handle.set_strength(s)`` changes it
    target: names and shapes of the weights to change, where these are not all of the model's
    factors: multiplies the strength module by module (see ``MergeHandle.set_strengths``)

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
    # One tensor may be known by several names (tied weights), any of which an adapter may use.
    named = model.named_parameters(remove_duplicate=False) if isinstance(model, nn.Module) else model.items()
    tensors = {name: tensor for name, tensor in named if isinstance(tensor, Tensor)}
    matches, report = resolve(adapter, target or Target.of(tensors))
    report.raise_if_nothing_matched()
    by_key: dict[Hashable, list[Match]] = defaultdict(list)
    for match in matches:
        by_key[_key(tensors[match.weight])].append(match)
    _check_memory(tensors, by_key, report)
    handle = MergeHandle(report, strength, factors)
    handle._merge((tensors[found[0].weight], found) for found in by_key.values())
    return handle


def _check_memory(tensors: Mapping[str, Tensor], by_key: Mapping[Hashable, list[Match]], report: Report) -> None:
    """A note on weights that have several names; LoKrValueError for one that has no numbers."""
    names: dict[Hashable, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        names[_key(tensor)].append(name)
    shared = [names[key] for key in by_key if len(names[key]) > 1]
    if shared:
        report.notes.append(
            f"{len(shared)} changed weights are shared, and change under each of their names: {' = '.join(shared[0])}"
            + (" and others" if len(shared) > 1 else "")
        )
    for matches in by_key.values():
        tensor = tensors[matches[0].weight]
        if tensor.is_meta:
            raise LoKrValueError(
                "A weight has no numbers: it is on the meta device",
                file=report.adapter.path,
                module=matches[0].module,
                expected="a loaded weight",
                found=f"{matches[0].weight} {tuple(tensor.shape)} on {tensor.device}",
                hint="load the model's weights, without offloading, before merging",
            )
