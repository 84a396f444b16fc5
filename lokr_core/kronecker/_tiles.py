"""Some rows of w1 ⊗ w2, as products of rows of the factors."""

from __future__ import annotations

from collections.abc import Iterator

from ._factor import Factor


def split_rows(w1: Factor, w2: Factor, start: int, length: int) -> Iterator[tuple[int, int, Factor, Factor]]:
    """Rows start:start+length of w1 (l, m) ⊗ w2 (k, n, ...) as up to three products: (offset, rows, w1', w2').

    Row i*k + j of the product is made of row i of w1 and row j of w2, so a range of rows is whole rows of w1 between
    two that are taken in part.
    """
    k = w2.shape[0]
    at, stop = start, start + length
    while at < stop:
        i, j = divmod(at, k)
        if j == 0 and stop - at >= k:
            whole = (stop - at) // k
            size, part = whole * k, (w1.narrow_rows(i, whole), w2)
        else:
            size = min(k - j, stop - at)
            part = (w1.narrow_rows(i, 1), w2.narrow_rows(j, size))
        yield at - start, size, *part
        at += size
