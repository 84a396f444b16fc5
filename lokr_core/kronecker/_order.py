"""The cheapest order in which the matrices of two Kronecker factors act on an input."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, ...]


def cheapest(first: Sequence[Shape], second: Sequence[Shape], taps: Sequence[int], before: int) -> str:
    """The order of fewest multiplications, as a word of 1s and 2s: which factor's next matrix acts.

    taps: of each matrix of w2 the numbers of kernel it convolves with, 0 if it is a matrix product
    before: positions before the convolution for each one after it (1 for a Linear)
    """

    def best(i: int, j: int) -> tuple[int, str]:
        """(multiplications, order) of what is left once ``i`` and ``j`` matrices have acted."""
        options = []
        # Of two orders of one cost, the one in which w2 acts first (``min`` takes the first): w1's step accumulates.
        positions = before if any(taps[j:]) else 1
        if j < len(second):
            rows, cols = second[j][:2]
            height = first[i][1] if i < len(first) else first[-1][0]
            cost, rest = best(i, j + 1)
            at = 1 if taps[j] else positions
            options.append((cost + rows * cols * max(taps[j], 1) * height * at, "2" + rest))
        if i < len(first):
            rows, cols = first[i]
            width = second[j][1] if j < len(second) else second[-1][0]
            cost, rest = best(i + 1, j)
            options.append((cost + rows * cols * width * positions, "1" + rest))
        return min(options, key=lambda option: option[0]) if options else (0, "")

    return best(0, 0)[1]
