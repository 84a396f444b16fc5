"""Weights as diffusers' ``set_adapters`` takes them, per part of a pipeline and per block."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..adapter import check_strength
from ..errors import LoKrValueError

Weights = float | Mapping[str, Any] | None
"""A number; part of the pipeline -> number or weights of its blocks; None for 1."""

_ATTENTION = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)")


def factor_of(weights: Weights, parts: Mapping[str, nn.Module]) -> Callable[[str], float]:
    """A function from the name of a pipeline's module ("unet.mid_block...") to its weight.

    parts: the pipeline's models by name

    Raises LoKrValueError if a part or a block is unknown, or a weight is not finite.

    >>> of = factor_of({"unet": 0.5}, {"unet": nn.Linear(2, 2), "text_encoder": nn.Linear(2, 2)})
    >>> of("unet.conv_in"), of("text_encoder.fc1")
    (0.5, 1.0)
    """
    if not isinstance(weights, Mapping):
        number = _number(weights)
        return lambda place: number
    _check_known("part of the pipeline", weights, parts)
    of_parts = {name: _of_part(weights.get(name), part) for name, part in parts.items()}

    def factor(place: str) -> float:
        part, _, path = place.partition(".")
        return of_parts[part](path)

    return factor


def _of_part(weights: Weights, part: nn.Module) -> Callable[[str], float]:
    """A function from the name of a module of ``part`` to its weight."""
    if not isinstance(weights, Mapping):
        number = _number(weights)
        return lambda path: number
    blocks = _unet_blocks(weights, part) if hasattr(part, "down_blocks") else _named_blocks(weights, part)

    def factor(path: str) -> float:
        named = next((weight for name, weight in blocks.items() if name in path), None)
        if named is not None:
            return named
        # As diffusers does: what is beside an attention (a resnet, a sampler) has the weight of that attention.
        words = path.split(".")
        return blocks.get(f"{words[0]}.{words[1]}.attentions.{words[3]}", 1.0) if len(words) > 3 else 1.0

    return factor


def _named_blocks(weights: Mapping[str, Any], part: nn.Module) -> dict[str, float]:
    """Part of a module's name -> weight, of a model without diffusers' table of blocks."""
    names = [name for name, _ in part.named_modules()]
    for wanted in weights:
        if not any(wanted in name for name in names):
            blocks = ", ".join(name for name, _ in part.named_children())
            raise LoKrValueError("Unknown block", expected=f"a part of a module's name: {blocks}", found=wanted)
    return {name: _number(weight) for name, weight in weights.items()}


def _unet_blocks(weights: Mapping[str, Any], unet: nn.Module) -> dict[str, float]:
    """Name of an attention -> weight, from weights of "down", "mid" and "up", of their blocks and of these' layers."""
    names = [name for name, _ in unet.named_modules()]
    found = {match.groups() for name in names if (match := _ATTENTION.match(name))}
    layers = Counter((side, int(block)) for side, block, _ in found)
    _check_known("group of blocks", weights, ("down", "mid", "up"))
    middle: Any = weights.get("mid")
    blocks = {"mid_block.attentions.0": _number(middle[0] if isinstance(middle, list) and len(middle) == 1 else middle)}
    for side in ("down", "up"):
        given = weights.get(side)
        here = {f"block_{block}": (block, n) for (kind, block), n in sorted(layers.items()) if kind == side}
        if isinstance(given, Mapping):
            _check_known(f"block of {side} with attentions", given, here)
        for name, (block, count) in here.items():
            each = given.get(name) if isinstance(given, Mapping) else given
            each = each * count if isinstance(each, list) and len(each) == 1 else each
            each = each if isinstance(each, list) else [each] * count
            if len(each) != count:
                raise LoKrValueError(f"A weight for each layer of {side}.{name}", expected=count, found=len(each))
            blocks |= {f"{side}_blocks.{block}.attentions.{i}": _number(weight) for i, weight in enumerate(each)}
    return blocks


def _check_known(what: str, given: Mapping[str, Any], known: Any) -> None:
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise LoKrValueError(f"Unknown {what}", expected=", ".join(known), found=", ".join(unknown))


def _number(weight: Any) -> float:
    return 1.0 if weight is None else check_strength(weight)
