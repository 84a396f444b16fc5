"""One Kronecker factor, stored whole, low-rank or in Tucker form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..errors import LoKrShapeError
from ._numerics import COMPARED

Device = torch.device | str | None


@dataclass(frozen=True, eq=False)
class Factor:
    """A matrix (rows, cols), or (rows, cols, *kernel) for a convolution, as a file stores it.

    - whole: ``whole`` (rows, cols, *kernel)
    - low-rank: ``a`` (rows, r) and ``b`` (r, cols, *kernel); the factor is a @ b
    - Tucker: ``t`` (r, r, *kernel), ``a`` (r, rows), ``b`` (r, cols);
      the factor is W[p, q, ...] = sum_ij t[i, j, ...] a[i, p] b[j, q] (LyCORIS ``functional/general.py``).
      Mind that a is transposed against the low-rank form.

    Tensors keep the dtype and device of their file; methods compute in the dtype and on the device of their arguments.

    >>> Factor(a=torch.ones(6, 2), b=torch.ones(2, 4, 3, 3)).shape
    (6, 4, 3, 3)
    """

    whole: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    t: Tensor | None = None

    def __post_init__(self):
        if self.whole is not None:
            if self.whole.ndim < 2:
                raise LoKrShapeError("A factor needs two axes", expected="(rows, cols, ...)", found=self.shape)
            return
        a, b, t, problem = self.a, self.b, self.t, ""
        if a is None or b is None:
            raise LoKrShapeError("A low-rank factor needs both its halves", expected="a and b", found="one of them")
        if a.ndim != 2 or b.ndim < 2:
            problem = "A low-rank factor's halves have the wrong number of axes"
        elif t is None and a.shape[1] != b.shape[0]:
            problem = "The ranks of a low-rank factor's halves differ"
        if problem:
            found = f"a {tuple(a.shape)}, b {tuple(b.shape)}"
            raise LoKrShapeError(problem, expected="a (rows, r), b (r, cols, ...)", found=found)
        if t is not None and (b.ndim != 2 or t.ndim < 3 or t.shape[:2] != (a.shape[0], b.shape[0])):
            raise LoKrShapeError(
                "The core of a Tucker factor does not fit its halves",
                expected=f"t ({a.shape[0]}, {b.shape[0]}, *kernel), a (r, rows), b (r, cols)",
                found=f"t {tuple(t.shape)}, a {tuple(a.shape)}, b {tuple(b.shape)}",
            )

    @classmethod
    def of(cls, factor: Factor | Tensor) -> Factor:
        """``factor`` itself, or a tensor as a whole factor."""
        return factor if isinstance(factor, Factor) else cls(whole=factor)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], name: str) -> Factor:
        """The factor ``name`` ("lokr_w1", "lokr_w2") out of a module's tensors by LyCORIS' names, in whichever form.

        Whole: ``lokr_w2``. Low-rank: ``lokr_w2_a``, ``lokr_w2_b``. Tucker: ``lokr_t2`` besides. A whole factor wins
        over halves, as in LyCORIS. Raises LoKrShapeError if both forms are incomplete or
        their shapes contradict each other.

        >>> Factor.from_tensors({"lokr_w2_a": torch.ones(6, 2), "lokr_w2_b": torch.ones(2, 4)}, "lokr_w2").shape
        (6, 4)
        """
        whole = tensors.get(name)
        if whole is not None:
            return cls(whole=whole)
        return cls(a=tensors.get(f"{name}_a"), b=tensors.get(f"{name}_b"), t=tensors.get(core_name(name)))

    def to_tensors(self, name: str) -> dict[str, Tensor]:
        """The stored tensors by LyCORIS' names: the inverse of ``from_tensors``."""
        names = {"whole": name, "a": f"{name}_a", "b": f"{name}_b", "t": core_name(name)}
        return {names[field]: tensor for field, tensor in self.tensors.items()}

    @property
    def halves(self) -> tuple[Tensor, Tensor]:
        """a and b of a low-rank or Tucker factor."""
        assert self.a is not None and self.b is not None, "a whole factor"
        return self.a, self.b

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, cols, *kernel) of the stored tensors; a flattened kernel is part of cols."""
        if self.whole is not None:
            return tuple(self.whole.shape)
        a, b = self.halves
        return (a.shape[0], *b.shape[1:]) if self.t is None else (a.shape[1], b.shape[1], *self.t.shape[2:])

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def dtype(self) -> torch.dtype:
        """The first stored tensor's; others differ only if a file mixes dtypes."""
        return (self.halves[0] if self.whole is None else self.whole).dtype

    @property
    def rank(self) -> int | None:
        """r of a low-rank or Tucker factor, None for a whole one."""
        return None if self.whole is not None else self.halves[1].shape[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors by the name of their field."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: tensor for name, tensor in named if tensor is not None}

    @property
    def matrices(self) -> list[Tensor]:
        """The matrices whose product is the factor, each (rows, cols) or (rows, cols, *kernel), in the order in which
        they act on an input."""
        if self.whole is not None:
            return [self.whole]
        a, b = self.halves
        return [b, a] if self.t is None else [b, self.t, a.T]

    @property
    def numel(self) -> int:
        """Stored numbers (parameters)."""
        return sum(t.numel() for t in self.tensors.values())

    def map(self, function: Callable[[Tensor], Tensor]) -> Factor:
        """The same factor with ``function`` applied to each stored tensor."""
        return Factor(**{name: function(tensor) for name, tensor in self.tensors.items()})

    def to(self, *args: Any, **kwargs: Any) -> Factor:
        """``Tensor.to`` on each stored tensor."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def with_kernel(self, kernel: tuple[int, ...]) -> Factor | None:
        """The same numbers with exactly these kernel axes; None if the factor has others.

        Files differ in how they hold a kernel: as axes of their own, flattened into cols (LyCORIS and PEFT,
        low-rank), omitted if it is 1x1, or padded with a trailing 1 (PEFT's Conv1d Tucker core).
        """
        kernel, own = tuple(kernel), self.kernel
        if own == kernel:
            return self
        size = prod(kernel)
        if self.t is not None:
            padded = own[: len(kernel)] == kernel and prod(own[len(kernel) :]) == 1
            return replace(self, t=self.t.reshape(*self.t.shape[:2], *kernel)) if padded and kernel else None
        name = "b" if self.whole is None else "whole"
        carrier: Tensor = getattr(self, name)
        if prod(own) == size == 1 or not own:
            cols = carrier.shape[1]
            if cols % size == 0:
                return replace(self, **{name: carrier.reshape(carrier.shape[0], cols // size, *kernel)})
        return None

    def without_kernel(self) -> Factor:
        """The same numbers as a matrix. Raises LoKrShapeError if a kernel axis is not 1."""
        matrix = self.with_kernel(())
        if matrix is None:
            raise LoKrShapeError("The first factor has a kernel", expected="(l, m)", found=self.shape)
        return matrix

    def narrow_rows(self, start: int, length: int) -> Factor:
        """Rows start:start+length as a factor of the same form, without a copy."""
        if self.whole is not None:
            return replace(self, whole=self.whole.narrow(0, start, length))
        return replace(self, a=self.halves[0].narrow(0 if self.t is None else 1, start, length))

    def narrow_cols(self, start: int, length: int) -> Factor:
        """Columns start:start+length as a factor of the same form, without a copy."""
        name = "b" if self.whole is None else "whole"
        return replace(self, **{name: getattr(self, name).narrow(1, start, length)})

    def roll_rows(self, shift: int) -> Factor:
        """The factor with its rows rolled by ``shift``, as ``torch.roll`` does."""
        if self.whole is not None:
            return replace(self, whole=self.whole.roll(shift, 0))
        return replace(self, a=self.halves[0].roll(shift, 0 if self.t is None else 1))

    def materialize_rows(
        self, start: int, stop: int, dtype: torch.dtype | None = None, device: Device = None
    ) -> Tensor:
        """Rows start:stop built whole, (stop - start, cols, *kernel), in ``dtype`` on ``device``."""
        # Not by ``narrow_rows``: a merge calls this for every layer, and a Factor costs more time than a small product.
        if self.whole is not None:
            return self.whole[start:stop].to(device, dtype)
        a, b = self.halves
        a = a[start:stop] if self.t is None else a[:, start:stop]  # (stop - start, r), Tucker: (r, stop - start)
        a, b = a.to(device, dtype), b.to(device, dtype)
        if self.t is not None:
            return torch.einsum("ij...,ip,jq->pq...", self.t.to(device, dtype), a, b)
        return (a @ b.flatten(1)).view(len(a), *b.shape[1:])

    def materialize(self, dtype: torch.dtype | None = None, device: Device = None) -> Tensor:
        """The factor built whole: (rows, cols, *kernel), in ``dtype`` on ``device``."""
        return self.materialize_rows(0, self.shape[0], dtype, device)

    def representable_in(self, dtype: torch.dtype) -> bool:
        """Whether the factor is whole and all its numbers are exact in ``dtype``."""
        whole = self.whole
        if whole is None:
            return False
        # A few rows at a time: a factor may be as large as the weight, and so would its copies be.
        step = max(1, COMPARED // max(1, whole[:1].numel()))
        parts: Iterable[Tensor] = () if whole.dtype == dtype else whole.split(step)
        if whole.dtype.itemsize == 1:  # fp8 cannot be compared everywhere
            parts = (part.float() for part in parts)
        return all(bool((part.to(dtype).to(part.dtype) == part).all()) for part in parts)


def fit(w1: Factor, w2: Factor, shape: tuple[int, ...]) -> tuple[Factor, Factor]:
    """(w1, w2) with the kernel axes of a weight of ``shape`` (out, in, *kernel): all of them on w2.

    Raises LoKrShapeError if the product has another shape.
    """
    w2_fit = w2.with_kernel(shape[2:])
    w1_fit = w1.with_kernel(())
    if w1_fit is not None and w2_fit is not None:
        (l, m), (k, n) = w1_fit.shape, w2_fit.shape[:2]
        if (l * k, m * n) == tuple(shape[:2]):
            return w1_fit, w2_fit
    (l, m), (k, n) = w1.shape[:2], w2.shape[:2]
    raise LoKrShapeError(
        "The product of the factors does not have the weight's shape",
        expected=f"weight {tuple(shape)}",
        found=f"{(l * k, m * n, *w2.kernel)} = w1 {w1.shape} x w2 {w2.shape}",
    )


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


def core_name(name: str) -> str:
    """LyCORIS' name of a Tucker factor's core.

    >>> core_name("lokr_w2")
    'lokr_t2'
    """
    return name.replace("lokr_w", "lokr_t")


def rank_of(w1: Factor, w2: Factor) -> int | None:
    """The r that alpha is divided by: w2's rank, else w1's, None if both are whole (LyCORIS ``modules/lokr.py``)."""
    return w1.rank if w2.rank is None else w2.rank
