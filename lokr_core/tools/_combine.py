"""Several adapters, each at its strength, summed into one.

A sum of Kronecker products is one product if one factor is the same in all (up to a number), as in files that were
trained from one start. Any other sum is stored as the full difference, a LoKr with the number 1 as W1, which is exact
and as large as the weight; or as the nearest product, which is small, and its error is reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights, ModuleName, check_strength
from ..display import percent
from ..errors import LoKrValueError, blame
from ..formats import module_names, split_keys
from ..kronecker import Factor, nearest_kron
from ..matching import foreign_updates
from ..modules import expert_called

EXACT, NEAREST, REFUSE = "full difference", "nearest LoKr", "refuse"
OVERLAPS = (EXACT, NEAREST, REFUSE)
"""What to do with updates of one module whose sum is not a single LoKr."""

# Names of tensors that are columns (biases, norms) beside a module's matrix.
_COLUMNS = ("diff_b", "b_norm")
_UNLIKE = "adapters for different models cannot be combined"
_SAME = 1e-6  # of the sum's norm: a smaller error is rounding


@dataclass(frozen=True)
class Term:
    """An adapter and its strength: a number for all modules, or one per module (modules that it lacks are left out)."""

    adapter: Adapter
    strength: float | Mapping[str, float] = 1.0

    def of(self, module: str) -> float:
        strength = self.strength
        return check_strength(strength.get(module, 0.0) if isinstance(strength, Mapping) else strength)


@dataclass
class Combined:
    """The sum, and how many modules of it are of each kind.

    kept: in one file only; summed: exactly; differences: as full differences; nearest: as the nearest LoKr
    worst: the largest relative error among the last
    """

    adapter: Adapter
    kept: int = 0
    summed: int = 0
    differences: int = 0
    nearest: int = 0
    worst: float = 0.0
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a person."""
        counts = [
            (self.kept, "modules as they are"),
            (self.summed, "summed exactly"),
            (self.differences, "as full differences"),
            (self.nearest, f"as the nearest LoKr, off by {percent(self.worst)} at most"),
        ]
        made = ", ".join(f"{count} {what}" for count, what in counts if count) or "no modules"
        return "\n".join([made, *(f"note: {note}" for note in self.notes)])

    def as_dict(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "adapter"}


class _Update(NamedTuple):
    """An update of a module at its strength, and the file it comes from."""

    name: ModuleName
    adapter: Adapter
    weights: LoKrWeights
    strength: float


def combine(terms: Sequence[Term], overlap: str = EXACT) -> Combined:
    """The sum of ``terms`` as one adapter: applied at strength 1, it does what they do together.

    Two modules are the same if their names differ in prefix and spelling alone. A diffusers name and an original name
    are two modules: both are kept, and add up when they are applied. LoRA and full differences become LoKr (with the
    number 1 as W1); biases and norms are summed as they are.

    overlap: one of ``OVERLAPS``, for updates of one module whose sum is not a LoKr

    Raises LoKrValueError if a strength is not finite, if DoRA (which depends on the base weight) is at a strength other
    than 1 or meets another update of its module, if another algorithm is at a strength other than 1 or in two terms,
    and with ``REFUSE``; LoKrShapeError if updates of one module differ in shape.

    >>> one = Adapter({"a": LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(3, 3)))})
    >>> both = combine([Term(one, 0.5), Term(one, 0.25)])
    >>> torch.allclose(both.adapter["a"].delta(), 0.75 * one["a"].delta(), atol=1e-5)
    True
    """
    if overlap not in OVERLAPS:
        raise LoKrValueError("Unknown overlap", expected=", ".join(OVERLAPS), found=overlap)
    modules: dict[tuple[str, str, str], list[_Update]] = {}
    tensors: dict[str, Tensor] = {}
    for term in terms:
        for update in _updates(term):
            modules.setdefault(_key(update.name), []).append(update)
        _add_tensors(term, tensors)
    if not modules and not tensors:
        raise LoKrValueError(
            "There is nothing to combine", expected="an adapter at a strength other than 0", found=f"{len(terms)} terms"
        )
    foreign = split_keys(tensors).foreign
    combined = Combined(
        Adapter(
            {},
            foreign=foreign.named(module_names(foreign.modules)[0]),
            metadata=_metadata(terms),
            producer=", ".join(dict.fromkeys(term.adapter.producer for term in terms)),
        ),
        notes=_two_experts(terms),
    )
    for updates in modules.values():
        _add(updates, overlap, combined)
    return combined


def _two_experts(terms: Sequence[Term]) -> list[str]:
    """A note if the files are, by their names, for the two experts of one model: their sum is of use to neither."""
    called = {expert_called(term.adapter.path.name) for term in terms if term.adapter.path}
    if called >= {"high", "low"} and not any(term.adapter.experts for term in terms):
        return ["these files are for two experts, and were summed into one update: lokr join keeps them side by side"]
    return []


def _key(name: ModuleName) -> tuple[str, str, str]:
    return name.expert, "" if name.component == "unet" else name.component, name.path.replace(".", "_")


def _updates(term: Term) -> Iterator[_Update]:
    """The updates of a term that are LoKr, or become one."""
    adapter = term.adapter
    found = [(name, adapter[module]) for module, name in adapter.names.items()]
    for module, parts in foreign_updates(adapter).items():
        if _has_matrix(parts):
            found.append((adapter.foreign.modules[module].name, parts["weight"]))
    for name, weights in found:
        strength = term.of(name.full)
        if strength:
            yield _Update(name, adapter, weights, strength)


def _has_matrix(parts: Mapping[str, LoKrWeights]) -> bool:
    """Whether a module's update is of a matrix; those of norms and biases are of a single column."""
    return "weight" in parts and parts["weight"].shape[1] > 1


def _add(updates: Sequence[_Update], overlap: str, combined: Combined) -> None:
    """Add one module's sum to ``combined``."""
    first = updates[0]
    for update in updates:
        _check_dora(update, len(updates))
    if len(updates) == 1:
        combined.kept += 1
        weights = replace(first.weights, scaling=first.weights.scaling * first.strength)
    else:
        weights = _sum(updates, overlap, combined)
    combined.adapter.modules[first.name.full] = weights
    combined.adapter.names[first.name.full] = first.name


def _sum(updates: Sequence[_Update], overlap: str, combined: Combined) -> LoKrWeights:
    """The sum of several updates of a module, counted in ``combined``."""
    fitted = _fitted(updates)
    alike = len({(w.w1.shape, w.w2.shape) for w in fitted}) == 1
    if alike:
        scales = [weights.scaling * update.strength for weights, update in zip(fitted, updates, strict=True)]
        w1, w2, error = nearest_kron([(weights.w1, weights.w2) for weights in fitted], scales)
        if error <= _SAME:
            combined.summed += 1
            return LoKrWeights(w1, w2)
        if overlap == NEAREST:
            combined.nearest += 1
            combined.worst = max(combined.worst, error)
            return LoKrWeights(w1, w2)
    if overlap == REFUSE:
        raise LoKrValueError(
            "Two adapters change this module, and their sum is not a LoKr",
            module=updates[0].name.full,
            expected="updates with one factor in common",
            found=f"the nearest LoKr is off by {error:.2%}" if alike else "factors of unlike shapes",
            hint=f"combine them as '{EXACT}'" + (f" or '{NEAREST}'" if alike else ""),
        )
    combined.differences += 1
    total = torch.zeros(fitted[0].shape)
    for weights, update in zip(fitted, updates, strict=True):
        weights.add_to_(total, update.strength)
    return LoKrWeights(Factor(torch.ones(1, 1)), Factor(total))


def _check_dora(update: _Update, count: int) -> None:
    if update.weights.dora_scale is not None and (update.strength != 1 or count > 1):
        raise LoKrValueError(
            "DoRA can't be added up: what it does depends on the base weight",
            file=update.adapter.path,
            module=update.name.full,
            expected="strength 1, and no other update of this module",
            found=f"strength {update.strength:g}, {count} updates",
            hint="merge it into a checkpoint instead (lokr apply), or save it by itself at strength 1",
        )


def _fitted(updates: Sequence[_Update]) -> list[LoKrWeights]:
    """The updates with the axes of one weight, those of the update whose kernel is not flattened."""
    shape = max((update.weights.shape for update in updates), key=len)
    fitted = []
    for update in updates:
        with blame(file=update.adapter.path, module=update.name.full, hint=_UNLIKE):
            fitted.append(update.weights.fit(shape))
    return fitted


def _add_tensors(term: Term, tensors: dict[str, Tensor]) -> None:
    """Add the tensors that stay foreign: biases and norms are scaled, other algorithms copied."""
    adapter, known = term.adapter, foreign_updates(term.adapter)
    owners = {key: (m, name) for m, each in adapter.foreign.modules.items() for key, name in each.keys.items()}
    for key, tensor in adapter.foreign.tensors.items():
        module, name = owners.get(key, (key, ""))
        strength = term.of(module)
        if not strength:
            continue
        if module in known:
            if _has_matrix(known[module]) and name not in _COLUMNS:
                continue
            tensors[key] = tensors.get(key, 0) + (tensor if strength == 1 else tensor.float() * strength)
        elif strength == 1 and key not in tensors:
            tensors[key] = tensor
        else:
            raise LoKrValueError(
                "This kind of update can only be stored unchanged",
                file=adapter.path,
                module=module,
                expected="strength 1, in one of the adapters",
                found=f"{adapter.other_kinds.get(module, 'unknown')} at strength {strength:g}",
                hint="merge it into a checkpoint with a host that knows it",
            )


def _metadata(terms: Sequence[Term]) -> dict[str, str]:
    """The metadata that all files share, and which files they were."""
    first, *rest = [term.adapter.metadata for term in terms]
    shared = {key: text for key, text in first.items() if all(other.get(key) == text for other in rest)}
    sources = [{"file": term.adapter.path and term.adapter.path.name, "strength": _strength_of(term)} for term in terms]
    return {**shared, "lokr_combined": json.dumps(sources)}


def _strength_of(term: Term) -> float | str:
    """A term's strength, "by module" if it differs."""
    if not isinstance(term.strength, Mapping):
        return term.strength
    strengths = set(term.strength.values())
    return strengths.pop() if len(strengths) == 1 else "by module"
