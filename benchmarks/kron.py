"""``add_kron_`` against ``weight += torch.kron(...)`` and against a bare add of the same size."""

from __future__ import annotations

import torch

from lokr_core.kronecker import Factor, add_kron_, factorization

from .measure import median_times, peak_extra

SHAPES = ((3072, 3072), (12288, 3072))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def run() -> list[dict]:
    """Rows of seconds, ratios and peak bytes: one per shape, dtype and form of the factors."""
    rows = []
    for shape in SHAPES:
        for dtype in DTYPES:
            rows.append(_row(shape, dtype, dtype, "whole"))
        rows.append(_row(shape, torch.float16, torch.float32, "whole"))
        rows.append(_row(shape, torch.float32, torch.float32, "low-rank"))
    return rows


def _row(shape: tuple[int, int], dtype: torch.dtype, factor_dtype: torch.dtype, form: str) -> dict:
    torch.manual_seed(0)
    (l, k), (m, n) = (factorization(size) for size in shape)
    weight = torch.randn(shape).to(dtype)
    other = torch.randn(shape).to(dtype)
    w1 = torch.randn(l, m).to(factor_dtype)
    a, b = torch.randn(k, 16).to(factor_dtype), torch.randn(16, n).to(factor_dtype)
    w2 = (a.float() @ b.float()).to(factor_dtype)
    factor = Factor(a=a, b=b) if form == "low-rank" else Factor(w2)

    def kron_as_comfyui() -> None:
        # What ComfyUI's LoKr does to its fp32 copy of a weight: cast the factors, build the product, scale it, cast it.
        first, second = w1.float(), a.float() @ b.float() if form == "low-rank" else w2.float()
        difference = torch.kron(first, second).reshape(weight.shape)
        weight.add_(((0.7 * 0.5) * difference).type(weight.dtype))

    runs = {
        "ours": lambda: add_kron_(weight, w1, factor, 0.35),
        "torch.kron": kron_as_comfyui,
        "bare add": lambda: weight.add_(other),
    }
    times = median_times(runs)
    size = weight.numel() * weight.element_size()
    return {
        "case": f"{shape[0]}x{shape[1]} {_name(dtype)}, factors {_name(factor_dtype)} {form}",
        "ms": {name: seconds * 1e3 for name, seconds in times.items()},
        "times faster than torch.kron": times["torch.kron"] / times["ours"],
        "of a bare add": times["ours"] / times["bare add"],
        "extra memory / weight": peak_extra(runs["ours"]) / size,
        "extra memory / weight, torch.kron": peak_extra(kron_as_comfyui) / size,
    }


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
