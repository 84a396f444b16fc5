"""Names that both sides of a table have, for different weights: the rest of a file tells whose its names are."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import NamedTuple

from ._words import DIFFUSERS, ORIGINAL, Architecture, mask_numbers


class Crossing(NamedTuple):
    """A table's names as a target sees them, flattened and with masked numbers.

    meant: a name of the other side that this side has for another weight -> this side's pattern of the weight it means
    own, other: names that this side, or the other one, has alone
    """

    meant: dict[str, str]
    own: frozenset[str]
    other: frozenset[str]


def crossed(paths: Collection[str], architecture: Architecture, side: str) -> dict[str, str]:
    """What a file's names mean in a target of ``side``, for those that it calls another weight.

    paths: all names of the file, dotted or flattened

    Returns name -> the target's name; empty if most of the names that one side has alone are the target's.

    >>> from ._image import HUNYUAN_DIT
    >>> crossed(["blocks.0.attn1.to_q", "blocks.0.norm2"], HUNYUAN_DIT, ORIGINAL)
    {'blocks.0.norm2': 'blocks.0.norm3'}
    >>> crossed(["blocks.0.attn1.Wqkv", "blocks.0.norm2"], HUNYUAN_DIT, ORIGINAL)
    {}
    """
    meant, own, other = _crossing(architecture, side)
    if not meant:
        return {}
    masked = {path: mask_numbers(path.replace(".", "_")) for path in paths}
    if sum(name in other for name, _ in masked.values()) <= sum(name in own for name, _ in masked.values()):
        return {}
    found = ((path, meant[name], numbers) for path, (name, numbers) in masked.items() if name in meant)
    return {path: pattern.format(*numbers) for path, pattern, numbers in found}


@cache
def _crossing(architecture: Architecture, side: str) -> Crossing:
    there = ORIGINAL if side == DIFFUSERS else DIFFUSERS
    ours, theirs = ({_flat(n) for rule in architecture.rules for n in rule.names(s)} for s in (side, there))
    one = (rule for rule in architecture.rules if len(rule.names(side)) == len(rule.names(there)) == 1)
    names = ((_flat(rule.names(there)[0]), rule.names(side)[0]) for rule in one)
    meant = {name: mask_numbers(own, "{}")[0] for name, own in names if name in ours and name != _flat(own)}
    return Crossing(meant, frozenset(ours - theirs), frozenset(theirs - ours))


def _flat(pattern: str) -> str:
    return mask_numbers(pattern.replace(".", "_"))[0]
