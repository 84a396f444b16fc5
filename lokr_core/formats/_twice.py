"""Modules that a file holds twice, in two spellings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ..adapter import LoKrWeights, ModuleName
from ..errors import LoKrFileError
from ._keys import same_numbers


def drop_repeated(modules: dict[str, LoKrWeights], names: dict[str, ModuleName]) -> list[str]:
    """Take out of ``modules`` and ``names`` what is there already in another spelling, and say so.

    Two spellings are of one module where their names differ in prefix or "_" for "." alone and neither says that it
    is of another part of the pipeline. Raises LoKrFileError where their numbers differ: both cannot be meant.
    """
    repeated = []
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
        repeated.append((first, second))
        del modules[second], names[second]
    if not repeated:
        return []
    first, second = repeated[0]
    return [
        f"{len(repeated)} modules are in the file twice with the same numbers, such as {first} and {second}: each is "
        "used once"
    ]


def _pairs(names: dict[str, ModuleName]) -> Iterator[tuple[str, str]]:
    by_path: dict[str, list[ModuleName]] = defaultdict(list)
    for name in names.values():
        by_path[name.path.replace(".", "_")].append(name)
    for found in by_path.values():
        for at, one in enumerate(found):
            for other in found[at + 1 :]:
                if _one_module(one, other):
                    yield one.full, other.full


def _one_module(one: ModuleName, other: ModuleName) -> bool:
    spelled = one.path == other.path or one.flattened or other.flattened
    parts = {one.component, other.component} - {""}
    return spelled and (len(parts) < 2 or parts in ({"te", "te1"},))


def _same(one: LoKrWeights, other: LoKrWeights) -> bool:
    if one.scaling != other.scaling or (one.dora_scale is None) != (other.dora_scale is None):
        return False
    if one.dora_scale is not None and not same_numbers(one.dora_scale, other.dora_scale):
        return False
    for mine, theirs in ((one.w1, other.w1), (one.w2, other.w2)):
        mine, theirs = mine.tensors, theirs.tensors
        if mine.keys() != theirs.keys() or not all(same_numbers(mine[part], theirs[part]) for part in mine):
            return False
    return True
