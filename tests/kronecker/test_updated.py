"""``updated_weight`` writes W' beside W: any number of updates, of all or some rows, with DoRA on either axis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lokr_core.kronecker import Update, updated_weight
from tests.norms import relative


@st.composite
def updates(draw, make_factor) -> tuple[torch.Tensor, list[Update]]:
    """A weight (12, 12, *kernel) in fp64, and updates of it."""
    torch.manual_seed(draw(st.integers(0, 999)))
    kernel = draw(st.sampled_from([(), (3,), (1, 2)]))
    found = []
    for _ in range(draw(st.integers(0, 4))):
        l, k = draw(st.sampled_from([(3, 4), (4, 3), (2, 2), (1, 6)]))
        m, n = draw(st.sampled_from([(3, 4), (1, 12), (12, 1)]))
        w1 = make_factor(draw(st.sampled_from(["whole", "low-rank"])), l, m)
        w2 = make_factor(draw(st.sampled_from(["whole", "low-rank", "tucker"] if kernel else ["whole"])), k, n, kernel)
        axis = draw(st.sampled_from([None, "out", "in"]))
        ratio = None if axis is None else torch.rand(l * k if axis == "out" else 12, dtype=torch.float64) * 2
        found.append(Update(draw(st.integers(0, 12 - l * k)), w1, w2, draw(st.floats(-2, 2)), ratio, axis))
    return torch.randn(12, 12, *kernel, dtype=torch.float64), found


def reference(weight: torch.Tensor, found: list[Update], product) -> torch.Tensor:
    """W + Σ s (c (W + ΔW) - W), by the definition."""
    result = weight.double().clone()
    for update in found:
        rows = slice(update.start, update.start + update.rows)
        w, c = weight.double()[rows], torch.ones(())
        if update.ratio is not None:
            c = update.ratio.double().view(*((-1, 1) if update.axis == "out" else (1, -1)), *(1,) * (weight.ndim - 2))
        result[rows] += update.strength * (c * (w + product(update.w1, update.w2)) - w)
    return result


@given(data=st.data())
def test_it_is_the_sum_of_all_updates(make_factor, product, data):
    weight, found = data.draw(updates(make_factor))
    before = weight.clone()
    out = torch.full_like(weight, torch.nan)
    assert updated_weight(weight, found, out) is out
    assert relative(out, reference(weight, found, product)) <= 1e-12
    assert torch.equal(weight, before)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_any_strides(make_factor, product, memory_format):
    torch.manual_seed(0)
    weight = torch.randn(12, 12, 3, 3).double().to(memory_format=memory_format)
    update = Update(0, make_factor("whole", 4, 3), make_factor("whole", 3, 4, (3, 3)), 0.7)
    out = updated_weight(weight, [update], torch.empty_like(weight))
    assert out.stride() == weight.stride() and relative(out, reference(weight, [update], product)) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("axis", [None, "out", "in"])
def test_half_precision_rounds_once(make_factor, product, dtype, axis):
    torch.manual_seed(0)
    weight = torch.randn(64, 96).to(dtype)
    w1, w2 = make_factor("whole", 8, 8, dtype=dtype), make_factor("whole", 8, 12, dtype=dtype)
    ratio = None if axis is None else torch.rand(64 if axis == "out" else 96) + 0.5
    update = Update(0, w1, w2, 0.3, ratio, axis)
    exact = reference(weight, [update], product)
    found = updated_weight(weight, [update], torch.empty_like(weight)).double()
    ulp = torch.finfo(dtype).eps * torch.exp2(torch.frexp(exact).exponent.double() - 1)
    assert ((found - exact).abs() <= 0.5 * ulp + 1e-5).all()
