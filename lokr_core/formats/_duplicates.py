"""Modules that a file holds twice, in two spellings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from ..adapter import LoKrWeights, ModuleName
from ..errors import LoKrFileError
from ..kronecker import same_numbers
from ..modules import EXPERTS, own_path


def drop_duplicates(modules: dict[str, LoKrWeights], names: dict[str, ModuleName]) -> list[str]:
    """Remove from ``modules`` and ``names`` the second of two spellings of a module. Returns notes on it.

    Two names are spellings of one module if they differ in prefix or "_" for "." alone and do not name two different
    parts of the pipeline. Raises LoKrFileError if their numbers differ.
    """
    _forget_equal_experts(modules, names)
    dropped = []
    for first, second in list(_pairs(names)):
        if first not in modules or second not in modules:
            continue
        if not _same(modules[first], modules[second]):
            raise LoKrFileError(
                "A module is in the file twice, in two spellings and with different numbers",
                module=first,
                expected="each module once",
                found=f"{first} and {second}",
                hint="the file was made by joining two adapters: use them one by one, each with its own strength",
            )
        dropped.append((first, second))
        del modules[second], names[second]
    if not dropped:
        return []
    first, second = dropped[0]
    return [
        f"{len(dropped)} modules are in the file twice with the same numbers, such as {first} and {second}: each is "
        "used once"
    ]


def _pairs(names: dict[str, ModuleName]) -> Iterator[tuple[str, str]]:
    """The full names of every two spellings of one module."""
    spelled: dict[str, list[ModuleName]] = {}
    for name in names.values():
        spelled.setdefault(name.path.replace(".", "_"), []).append(name)
    for found in spelled.values():
        yield from ((one.full, other.full) for one, other in combinations(found, 2) if _one_module(one, other))


def _one_module(one: ModuleName, other: ModuleName) -> bool:
    same_path = one.path == other.path or one.flattened or other.flattened
    parts = {one.component, other.component} - {""}
    return same_path and one.expert == other.expert and (len(parts) < 2 or parts == {"te", "te1"})


def _forget_equal_experts(modules: dict[str, LoKrWeights], names: dict[str, ModuleName]) -> None:
    """Take the experts out of ``names`` if a pipeline's are the same, number by number: no choice is needed then."""
    if not any(own_path(name).startswith("transformer.") for name in names.values()):
        return
    high, low = ({n.path: modules[m] for m, n in names.items() if n.expert == expert} for expert in EXPERTS)
    if high and high.keys() == low.keys() and all(_same(high[path], low[path]) for path in high):
        names.update({module: replace(name, expert="") for module, name in names.items()})


def _same(one: LoKrWeights, other: LoKrWeights) -> bool:
    """Whether both are the same numbers, in the same form."""
    mine, theirs = one.tensors, other.tensors
    same_form = one.scaling == other.scaling and mine.keys() == theirs.keys()
    return same_form and all(same_numbers(mine[name], theirs[name]) for name in mine)
