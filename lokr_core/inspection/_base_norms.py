"""‖W‖ of the weights that a file goes to."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..matching import Match


def base_norms(weights: Iterable[tuple[Match, Tensor]]) -> dict[str, float]:
    """Module of the file -> ‖W‖, the Frobenius norm of the rows that its updates go to.

    weights: each match of the file with its base weight (out, in, *kernel), dequantised

    >>> update = LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(1, 3)))
    >>> matches, _ = resolve(Adapter({"proj": update}), Target({"proj.weight": (2, 6)}))
    >>> base_norms((match, torch.full((2, 6), 2.0)) for match in matches)
    {'proj': 6.928203105926514}
    """
    squares: dict[str, float] = {}
    for match, weight in weights:
        for start, update in match.pieces:
            norm = torch.linalg.vector_norm(weight.narrow(0, start, update.shape[0]).float())
            squares[match.module] = squares.get(match.module, 0.0) + float(norm) ** 2
    return {module: square**0.5 for module, square in squares.items()}
