"""Several adapters, each at its strength, as one: exactly where one LoKr can be their sum, else as the caller chooses.

A sum of Kronecker products is one product where one of its factors is the same in all (up to a number), as with files
that were trained from one start. Otherwise it is none: then it is stored as the full difference, a LoKr whose W1 is the
number 1, which is exact and as large as the weight; or as the nearest product, which is small and says how far off it
is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights, ModuleName, check_strength
from ..errors import LoKrShapeError, LoKrValueError
from ..formats import module_names, split_keys
from ..kronecker import Factor, nearest_kron
from ..matching import other_updates

EXACT, NEAREST, REFUSE = "full difference", "nearest LoKr", "refuse"
OVERLAPS = (EXACT, NEAREST, REFUSE)
"""What to do with updates of one module whose sum is no single LoKr."""

# Names of tensors that are columns (biases, norms) beside a module's matrix.
_COLUMNS = ("diff_b", "b_norm")
_SAME = 1e-6  # of the sum's norm: below it, what is missing is rounding


@dataclass(frozen=True)
class Term:
    """An adapter and its strength: one for all modules, or one per module (those it does not name are left out)."""

    adapter: Adapter
    strength: float | Mapping[str, float] = 1.0

    def of(self, module: str) -> float:
        if isinstance(self.strength, Mapping):
            return check_strength(self.strength.get(module, 0.0))
        return check_strength(self.strength)


@dataclass
class Combined:
    """The one adapter, and how many modules are as in their file (but for the strength), summed exactly, stored as full
    differences, or as the nearest LoKr, ``worst`` being the largest error among these."""

    adapter: Adapter
    kept: int = 0
    summed: int = 0
    differences: int = 0
    nearest: int = 0
    worst: float = 0.0

    def text(self) -> str:
        """For a person."""
        said = [
            (self.kept, "modules as they are"),
            (self.summed, "summed exactly"),
            (self.differences, "as full differences"),
            (self.nearest, f"as the nearest LoKr, off by {self.worst:.2%} at most"),
        ]
        return ", ".join(f"{count} {what}" for count, what in said if count) or "no modules"

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

    Modules are the same where they have the same name but for prefix and spelling; under unlike names (a diffusers
    name here, an original name there) both are kept, and add up when they are applied. LoRA and full differences become
    LoKr (with a W1 that is the number 1); biases and norms are added up as they are.

    overlap: one of ``OVERLAPS``, for updates of one module whose sum is no LoKr

    Raises LoKrValueError for a strength that is no finite number, for DoRA where it can't be a term (it depends on the
    base weight: at a strength other than 1, or with another update of its module), for other algorithms at a strength
    other than 1 or twice, and with ``REFUSE``; LoKrShapeError where updates of one module are of unlike shapes.

    >>> one = Adapter({"a": LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(3, 3)))})
    >>> both = combine([Term(one, 0.5), Term(one, 0.25)])
    >>> torch.allclose(both.adapter["a"].delta(), 0.75 * one["a"].delta(), atol=1e-5)
    True
    """
    if overlap not in OVERLAPS:
        raise LoKrValueError("There is no such way", expected=", ".join(OVERLAPS), found=overlap)
    modules: dict[tuple[str, str], list[_Update]] = {}
    tensors: dict[str, Tensor] = {}
    for term in terms:
        for update in _updates(term):
            modules.setdefault(_key(update.name), []).append(update)
        _add_tensors(term, tensors)
    if not modules and not tensors:
        raise LoKrValueError(
            "There is nothing to combine", expected="an adapter at a strength other than 0", found=f"{len(terms)} terms"
        )
    parts = split_keys(tensors)
    combined = Combined(
        Adapter(
            {},
            other=parts.other,
            other_keys=parts.other_keys,
            other_kinds=parts.other_kinds,
            other_names=module_names(parts.other_kinds)[0],
            metadata=_metadata(terms),
            producer=", ".join(dict.fromkeys(term.adapter.producer for term in terms)),
        )
    )
    for updates in modules.values():
        _add(updates, overlap, combined)
    return combined


def _key(name: ModuleName) -> tuple[str, str]:
    return "" if name.component == "unet" else name.component, name.path.replace(".", "_")


def _updates(term: Term) -> Iterator[_Update]:
    """What of a term is LoKr, or becomes one."""
    adapter = term.adapter
    found = [(name, adapter[module]) for module, name in adapter.names.items()]
    for module, parts in other_updates(adapter).items():
        if _has_matrix(parts):
            found.append((adapter.other_names[module], parts["weight"]))
    for name, weights in found:
        strength = term.of(name.full)
        if strength:
            yield _Update(name, adapter, weights, strength)


def _has_matrix(parts: Mapping[str, LoKrWeights]) -> bool:
    """Whether a module's update is of a matrix: norms' and biases' are of a column."""
    return "weight" in parts and parts["weight"].shape[1] > 1


def _add(updates: Sequence[_Update], overlap: str, combined: Combined) -> None:
    """One module's sum into ``combined``."""
    first = updates[0]
    for update in updates:
        _check_dora(update, len(updates))
    if len(updates) == 1:
        combined.kept += 1
        weights = first.weights if first.strength == 1 else _times(first.weights, first.strength)
    else:
        weights = _sum(updates, overlap, combined)
    combined.adapter.modules[first.name.full] = weights
    combined.adapter.names[first.name.full] = first.name


def _sum(updates: Sequence[_Update], overlap: str, combined: Combined) -> LoKrWeights:
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
            "Two adapters change this module, and their sum is no LoKr",
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


def _times(weights: LoKrWeights, strength: float) -> LoKrWeights:
    return replace(weights, scaling=weights.scaling * strength)


def _fitted(updates: Sequence[_Update]) -> list[LoKrWeights]:
    """The updates with the axes of one weight: the one that has a kernel of its own tells them."""
    shape = max((update.weights.shape for update in updates), key=len)
    fitted = []
    for update in updates:
        try:
            fitted.append(update.weights.fit(shape))
        except LoKrShapeError as error:
            error.module, error.file = update.name.full, update.adapter.path
            error.hint = "adapters for different models can't be one"
            raise
    return fitted


def _add_tensors(term: Term, tensors: dict[str, Tensor]) -> None:
    """What is no LoKr and becomes none: biases and norms times the strength, other algorithms as they are."""
    adapter, known = term.adapter, other_updates(term.adapter)
    for key, tensor in adapter.other.items():
        module, name = adapter.other_keys.get(key, (key, ""))
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
                "This can be stored as it is alone",
                file=adapter.path,
                module=module,
                expected="strength 1, in one of the adapters",
                found=f"{adapter.other_kinds.get(module, 'unknown')} at strength {strength:g}",
                hint="merge it into a checkpoint with a host that knows it",
            )


def _metadata(terms: Sequence[Term]) -> dict[str, str]:
    """What all the files say alike, and what they were."""
    first, *rest = [term.adapter.metadata for term in terms]
    shared = {key: text for key, text in first.items() if all(other.get(key) == text for other in rest)}
    sources = [{"file": term.adapter.path and term.adapter.path.name, "strength": _said(term)} for term in terms]
    return {**shared, "lokr_combined": json.dumps(sources)}


def _said(term: Term) -> float | str:
    """A term's strength, or that it differs by module."""
    if not isinstance(term.strength, Mapping):
        return term.strength
    strengths = set(term.strength.values())
    return strengths.pop() if len(strengths) == 1 else "by module"
