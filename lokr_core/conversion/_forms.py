"""Updates of other algorithms as LoKr, and back: with the number 1 as W1, W2 is a LoRA or a full difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from ..adapter import LoKrWeights
from ..errors import LoKrShapeError
from ..kronecker import Factor, same_numbers

LOKR, LORA, FULL = "LoKr", "LoRA", "full difference"

_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def form_of(weights: LoKrWeights) -> str:
    """``LORA`` if W1 is a number and W2 low-rank, ``FULL`` if W1 is a number and W2 whole, else ``LOKR``.

    >>> form_of(lora(torch.ones(4, 2), torch.ones(2, 3)))
    'LoRA'
    """
    if prod(weights.w1.shape) != 1:
        return LOKR
    return FULL if weights.w2.whole is not None else LORA


def lora(up: Tensor, down: Tensor, dora_scale: Tensor | None = None) -> LoKrWeights:
    """up (out, r) @ down (r, in, *kernel) as an update."""
    return LoKrWeights(_one(), Factor(a=up, b=down), 1.0, dora_scale)


def full(delta: Tensor, dora_scale: Tensor | None = None) -> LoKrWeights:
    """A difference (out, in, *kernel) as an update."""
    return LoKrWeights(_one(), Factor(delta), 1.0, dora_scale)


def _one() -> Factor:
    return Factor(torch.ones(1, 1))


def lora_halves(weights: LoKrWeights) -> tuple[Tensor, Tensor]:
    """up (out, r) and down (r, in, *kernel) of an update that is a LoRA, W1's number and the scaling in up."""
    a, b = weights.w2.halves
    number = float(weights.w1.materialize(torch.float64)) * weights.scaling
    if weights.w2.t is not None:
        a, b = a.T, torch.einsum("ij...,jq->iq...", weights.w2.t.double(), b.double()).to(b.dtype)
    return (a if number == 1 else a.to(torch.promote_types(a.dtype, torch.float32)) * number), b


def loha(tensors: Mapping[str, Tensor]) -> LoKrWeights | None:
    """A LoHa's update (w1_a w1_b) ∘ (w2_a w2_b) · alpha / r: a LoRA of rank r², whole with Tucker cores.

    tensors: a module's, by LyCORIS' names. Returns None if they are not those of a LoHa.

    >>> found = loha({name: torch.ones(*((4, 2) if name.endswith("a") else (2, 3))) for name in _LOHA})
    >>> found.rank, found.delta()[0, 0].item()
    (4, 4.0)
    """
    if not set(_LOHA) <= tensors.keys() or not tensors.keys() <= {*_LOHA, "hada_t1", "hada_t2", "alpha", "dora_scale"}:
        return None
    w1a, w1b, w2a, w2b = (tensors[name].float() for name in _LOHA)
    rank = w1b.shape[0]
    scaling = float(tensors["alpha"]) / rank if "alpha" in tensors else 1.0
    dora_scale = tensors.get("dora_scale")
    if "hada_t1" in tensors:
        cores = tensors["hada_t1"].float(), tensors["hada_t2"].float()
        one, other = (Factor(a=a, b=b, t=t) for a, b, t in zip((w1a, w2a), (w1b, w2b), cores, strict=True))
        return replace(full(one.materialize() * other.materialize(), dora_scale), scaling=scaling)
    up = (w1a[:, :, None] * w2a[:, None]).flatten(1)  # (out, r²)
    down = (w1b[:, None] * w2b[None]).flatten(0, 1)  # (r², in · kernel)
    return replace(lora(up, down, dora_scale), scaling=scaling)


def stacked(pieces: Sequence[tuple[int, LoKrWeights]], shape: tuple[int, ...]) -> LoKrWeights:
    """Updates of some of the rows of a weight as one update of it, exactly; rows without an update are zero.

    pieces: (first row, update) pairs; shape: (out, in, *kernel) of the weight

    A LoRA if the ranks of all pieces together are below half of the weight's sides, else a full difference. Raises
    LoKrShapeError if only some of the pieces have DoRA, or one has it on the input axis.

    >>> half = lora(torch.ones(4, 1), torch.ones(1, 6))
    >>> stacked([(0, half), (4, half)], (8, 6)).rank
    2
    """
    dora_scale = _stacked_dora(pieces, shape)
    plain = [(row, replace(weights, dora_scale=None)) for row, weights in pieces]
    rank = sum(weights.w2.rank or 10**9 if form_of(weights) == LORA else 10**9 for _, weights in plain)
    if 2 * rank > min(shape[0], prod(shape[1:])):
        delta = torch.zeros(shape)
        for row, weights in plain:
            weights.add_to_(delta.narrow(0, row, weights.shape[0]))
        return full(delta, dora_scale)
    up, downs, at = torch.zeros(shape[0], rank), [], 0
    for row, weights in plain:
        part, down = lora_halves(weights)
        up[row : row + part.shape[0], at : at + part.shape[1]] = part
        at += part.shape[1]
        downs.append(down.float())
    return lora(up, torch.cat(downs).reshape(rank, *shape[1:]), dora_scale)


def joined(pieces: Sequence[tuple[int, LoKrWeights]], shape: tuple[int, ...]) -> LoKrWeights | None:
    """Updates of all rows of a weight as one product of the same factors. Returns None if they are not its rows.

    pieces: (first row, update) pairs; shape: (out, in, *kernel) of the weight

    They are if all have the same W2, and a W1 with the rows of each, or the same W1 of one row.

    >>> weights = LoKrWeights(Factor(torch.randn(4, 3)), Factor(torch.randn(5, 6)))
    >>> halves = [(row, part) for row in (0, 10) for _, part in weights.rows(row, 10)]
    >>> joined(halves, (20, 18)).w1.shape
    (4, 3)
    """
    ordered = sorted(pieces, key=lambda piece: piece[0])
    updates = [weights for _, weights in ordered]
    first, row = updates[0], 0
    for start, weights in ordered:
        if start != row or weights.scaling != first.scaling:
            return None
        row += weights.shape[0]
    if row != shape[0] or (len({weights.dora_scale is None for weights in updates}) > 1):
        return None
    dora_scale = first.dora_scale if len(updates) == 1 else _stacked_dora(ordered, shape)
    if all(_same(weights.w2, first.w2) for weights in updates):
        w1 = _rows_together([weights.w1 for weights in updates])
        return None if w1 is None else replace(first, w1=w1, dora_scale=dora_scale)
    if first.w1.shape[0] == 1 and all(_same(weights.w1, first.w1) for weights in updates):
        w2 = _rows_together([weights.w2 for weights in updates])
        return None if w2 is None else replace(first, w2=w2, dora_scale=dora_scale)
    return None


def _same(one: Factor, other: Factor) -> bool:
    mine, theirs = one.tensors, other.tensors
    return mine.keys() == theirs.keys() and all(mine[k] is theirs[k] or same_numbers(mine[k], theirs[k]) for k in mine)


def _rows_together(factors: Sequence[Factor]) -> Factor | None:
    """Factors as the rows of one of the same form. Returns None if they are not of one form and its columns."""
    first = factors[0]
    name = _row_tensor(first)
    for factor in factors:
        mine = {key: tensor for key, tensor in factor.tensors.items() if key != name}
        theirs = {key: tensor for key, tensor in first.tensors.items() if key != name}
        alike = mine.keys() == theirs.keys() and all(same_numbers(mine[key], theirs[key]) for key in mine)
        if not alike or _row_tensor(factor) != name or factor.shape[1:] != first.shape[1:]:
            return None
    axis = 1 if first.t is not None else 0
    return replace(first, **{name: torch.cat([factor.tensors[name] for factor in factors], axis)})


def _row_tensor(factor: Factor) -> str:
    """The name of the tensor that has the factor's rows."""
    return "whole" if factor.whole is not None else "a"


def _stacked_dora(pieces: Sequence[tuple[int, LoKrWeights]], shape: tuple[int, ...]) -> Tensor | None:
    ordered = [weights for _, weights in sorted(pieces, key=lambda piece: piece[0])]
    scales = [weights.dora_scale.flatten() for weights in ordered if weights.dora_scale is not None]
    if not scales:
        return None
    if sum(map(len, scales)) != shape[0] or any(weights.dora_axis != "out" for weights in ordered):
        raise LoKrShapeError(
            "DoRA of some of a weight's rows cannot be put together",
            expected="DoRA on the output axis in all parts of the weight",
            found=f"{len(scales)} of {len(pieces)} parts with DoRA",
            hint="give the model (--base) so that the trained difference is taken instead",
        )
    return torch.cat(scales).reshape(-1, *[1] * (len(shape) - 1))


def trained_difference(weights: LoKrWeights, base: Tensor) -> Tensor:
    """W' − W of an update on a base weight (out, in, *kernel), DoRA included, in fp32.

    >>> trained_difference(full(torch.ones(2, 3)), torch.zeros(2, 3)).sum().item()
    6.0
    """
    base = base.to(torch.promote_types(base.dtype, torch.float32))
    return weights.add_to_(base.clone(), 1.0, base).sub_(base).float()
