"""What a patch costs in memory beside the weight: an eighth of it, whatever the factors; a quarter with DoRA."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import peak_allocated
from lokr_core.kronecker import add_dora_, add_kron_

SHAPES = {
    "factor 2": (2, 2, 1024, 1024),
    "factor 1": (1, 1, 2048, 2048),
    "factor 8": (8, 8, 256, 256),
    "small w2": (512, 512, 4, 4),
    "w2 a column": (2048, 2048, 1, 1),
}
WEIGHTS = [torch.float32, torch.float16, torch.bfloat16]


def peak(function, *arguments) -> int:
    """The most bytes that were allocated at a time while ``function`` ran, beside what there was before."""
    function(*arguments)  # once before, for what torch allocates on a first call
    return peak_allocated(lambda: function(*arguments))


def test_the_measure_sees_a_copy():
    weight = torch.zeros(1024, 1024)
    assert peak(lambda: weight.add_(weight.clone())) == pytest.approx(weight.nbytes, rel=0.01)


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", WEIGHTS)
@pytest.mark.parametrize("factors", [torch.float32, torch.float16])
@pytest.mark.parametrize("form", ["whole", "low-rank"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_eighth_of_the_weight(make_factor, shape, form, factors, dtype):
    l, m, k, n = SHAPES[shape]
    w1, w2 = make_factor("whole", l, m, dtype=factors), make_factor(form, k, n, rank=16, dtype=factors)
    weight = torch.zeros(l * k, m * n, dtype=dtype)
    assert peak(add_kron_, weight, w1, w2) <= weight.nbytes / 8


@pytest.mark.parametrize("dtype", WEIGHTS)
@pytest.mark.parametrize("factors", [torch.float32, torch.float16])
def test_an_eighth_with_the_largest_rank_that_is_kept_low(make_factor, factors, dtype):
    w1 = make_factor("low-rank", 2, 2, rank=1, dtype=factors)
    w2 = make_factor("low-rank", 1024, 1024, rank=511, dtype=factors)
    weight = torch.zeros(2048, 2048, dtype=dtype)
    assert peak(add_kron_, weight, w1, w2) <= weight.nbytes / 8


@pytest.mark.parametrize("dtype", WEIGHTS)
@pytest.mark.parametrize("form", ["whole", "low-rank", "tucker"])
def test_an_eighth_of_a_convolution(make_factor, form, dtype):
    w1, w2 = make_factor("whole", 4, 4, dtype=torch.float32), make_factor(form, 192, 192, (3, 3), 16, torch.float32)
    weight = torch.zeros(768, 768, 3, 3, dtype=dtype)
    assert peak(add_kron_, weight, w1, w2) <= weight.nbytes / 8


@pytest.mark.every_pair
@pytest.mark.parametrize("dtype", WEIGHTS)
@pytest.mark.parametrize("axis", ["out", "in"])
@pytest.mark.parametrize("form", ["whole", "low-rank"])
@pytest.mark.parametrize("shape", ["factor 2", "factor 8", "small w2"])
def test_a_quarter_with_dora(make_factor, shape, form, axis, dtype):
    l, m, k, n = SHAPES[shape]
    w1, w2 = make_factor("whole", l, m, dtype=torch.float32), make_factor(form, k, n, rank=16, dtype=torch.float32)
    weight = torch.randn(l * k, m * n).to(dtype)
    scale = torch.ones(l * k if axis == "out" else m * n)
    assert peak(add_dora_, weight, w1, w2, 1.0, scale, axis) <= weight.nbytes / 4
