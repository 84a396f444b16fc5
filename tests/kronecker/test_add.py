"""``add_kron_`` adds the product into any weight, and rounds each number once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lokr_core import Factor, LoKrShapeError, LoKrValueError
from lokr_core.kronecker import add_kron_, materialize

HALF = [torch.float16, torch.bfloat16]
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [torch.float64, torch.float32, *HALF, *FP8]


def half_ulp(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The most by which rounding ``exact`` once to ``dtype`` changes it."""
    info = torch.finfo(dtype)
    below = torch.exp2(torch.frexp(exact).exponent.double() - 1)  # the power of 2 at or below
    return 0.5 * info.eps * below.clamp_min(info.smallest_normal)


def magnitudes(factor: Factor) -> Factor:
    return factor.map(lambda tensor: tensor.double().abs())


def assert_rounded_once(found, weight, w1, w2, scale, product):
    """found = weight + scale * w1 ⊗ w2 up to one rounding to its dtype and the computing dtype's own error.

    The latter is bounded by the number of operations times the sum of all magnitudes that enter a number.
    """
    exact = weight.double() + scale * product(w1, w2)
    eps = torch.finfo(torch.float64 if weight.dtype == torch.float64 else torch.float32).eps
    entering = weight.double().abs() + abs(scale) * product(magnitudes(w1), magnitudes(w2))
    operations = 8 + sum(2 * factor.rank ** (2 if factor.t is not None else 1) for factor in (w1, w2) if factor.rank)
    bound = half_ulp(exact, weight.dtype) + operations * eps * entering
    assert found.dtype == weight.dtype
    assert ((found.double() - exact).abs() <= bound).all()


def as_view(weight: torch.Tensor, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same numbers at other places: (a view of a buffer, the buffer), which is 7 all around the view."""
    shape = list(weight.shape)

    def full(*shape):
        return torch.full(shape, 7.0).to(weight.dtype)

    if layout == "transposed":
        buffer = full(*shape[::-1])
        view = buffer.permute(*range(len(shape))[::-1])
    elif layout == "rows":
        buffer = full(shape[0] + 3, *shape[1:])
        view = buffer[1 : 1 + shape[0]]
    elif layout == "columns":
        buffer = full(shape[0], shape[1] + 5, *shape[2:])
        view = buffer.narrow(1, 2, shape[1])
    elif layout == "every other":
        buffer = full(*shape[:-1], 2 * shape[-1])
        view = buffer[..., ::2]
    else:
        buffer = view = full(*shape)
    view.copy_(weight)
    return view, buffer


sizes = st.integers(1, 5)
kernels = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@given(
    l=sizes, k=sizes, m=sizes, n=st.integers(1, 40), kernel=kernels, rank=st.integers(1, 3),
    form1=st.sampled_from(["whole", "low-rank"]), form2=st.sampled_from(["whole", "low-rank", "tucker"]),
    dtype=st.sampled_from(DTYPES), dtype1=st.sampled_from(DTYPES), dtype2=st.sampled_from(DTYPES),
    layout=st.sampled_from(["contiguous", "transposed", "rows", "columns", "every other"]),
    scale=st.sampled_from([1.0, -0.3, 0.07]), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_any_factors_into_any_weight(
    make_factor, product, l, k, m, n, kernel, rank, form1, form2, dtype, dtype1, dtype2, layout, scale, seed
):
    torch.manual_seed(seed)
    if not kernel and form2 == "tucker":
        form2 = "low-rank"
    w1 = make_factor(form1, l, m, (), rank, dtype1)
    w2 = make_factor(form2, k, n, kernel, rank, dtype2)
    before = torch.randn(l * k, m * n, *kernel).to(dtype)
    weight, buffer = as_view(before, layout)

    assert add_kron_(weight, w1, w2, scale) is weight

    assert_rounded_once(weight, before, w1, w2, scale, product)
    beside = torch.ones(buffer.shape, dtype=torch.bool)
    beside.as_strided(weight.shape, weight.stride(), weight.storage_offset()).fill_(False)
    assert (buffer.double()[beside] == 7).all(), "numbers beside the view must stay"


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("form", ["whole", "low-rank"])
def test_a_large_half_weight_in_many_blocks(make_factor, product, dtype, form):
    torch.manual_seed(0)
    w1, w2 = make_factor("whole", 4, 6, dtype=torch.float32), make_factor(form, 300, 150, rank=8, dtype=torch.float32)
    before = torch.randn(1200, 900).to(dtype)
    weight = add_kron_(before.clone(), w1, w2, 0.01)
    assert_rounded_once(weight, before, w1, w2, 0.01, product)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("kernel", [(), (3,)])
def test_a_rank_so_high_that_columns_are_taken_by_turns(make_factor, product, dtype, kernel):
    torch.manual_seed(0)
    w1 = make_factor("whole", 2, 2, dtype=torch.float16)
    w2 = make_factor("low-rank", 90, 200, kernel, rank=300, dtype=torch.float16)
    before = torch.randn(180, 400, *kernel).to(dtype)
    weight = add_kron_(before.clone(), w1, w2, 0.01)
    assert_rounded_once(weight, before, w1, w2, 0.01, product)


@pytest.mark.parametrize("dtype", HALF)
def test_fp32_factors_are_not_rounded_to_a_half_weights_dtype(dtype):
    # 1 + 2^-12 rounds to 1 in either half; a thousand times it does not.
    w1, w2 = torch.tensor([[1000.0]]), torch.tensor([[1 + 2**-12]])
    weight = torch.full((1, 1), -1000.0, dtype=dtype)
    assert add_kron_(weight, w1, w2).item() == pytest.approx(1000 * 2**-12, rel=2**-7)


@pytest.mark.parametrize("dtype", HALF)
def test_the_sum_is_not_rounded_before_it_is_added(dtype):
    # 3 * 2^-k lies between two numbers near 1: the product alone, and the sum, each would round it.
    step = torch.finfo(dtype).eps
    weight = torch.ones(1, 1, dtype=dtype)
    add_kron_(weight, torch.tensor([[1.0]], dtype=dtype), torch.tensor([[1.0]], dtype=dtype), scale=0.75 * step)
    assert weight.item() == 1 + step


@pytest.mark.parametrize("kernel", [(), (3,), (3, 2), (2, 1, 3)])
@pytest.mark.parametrize("form", ["low-rank", "tucker"])
def test_autocast_does_not_round_the_factors(make_factor, product, form, kernel):
    torch.manual_seed(0)
    form = form if kernel else "low-rank"
    w1, w2 = make_factor("low-rank", 3, 4, (), 2, torch.float32), make_factor(form, 5, 6, kernel, 2, torch.float32)
    before = torch.randn(15, 24, *kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = add_kron_(before.clone(), w1, w2)
    assert_rounded_once(weight, before, w1, w2, 1.0, product)


def test_a_parameter_is_changed_in_place_and_no_graph_is_made(make_factor, product):
    w1, w2 = make_factor("whole", 2, 2), make_factor("low-rank", 3, 2)
    w1 = w1.map(lambda tensor: tensor.requires_grad_())
    parameter = torch.nn.Parameter(torch.randn(6, 4).double())
    before, address = parameter.detach().clone(), parameter.data_ptr()
    add_kron_(parameter, w1, w2)
    assert parameter.data_ptr() == address
    assert parameter.grad_fn is None and parameter.is_leaf
    assert_rounded_once(parameter.detach(), before, w1.map(torch.Tensor.detach), w2, 1.0, product)


def test_scale_0_changes_no_bit():
    weight = torch.randn(4, 4)
    before = weight.clone()
    add_kron_(weight, torch.full((2, 2), float("inf")), torch.randn(2, 2), 0)
    assert torch.equal(weight, before)


def test_an_empty_weight_is_left_alone():
    assert add_kron_(torch.zeros(0, 6), torch.zeros(0, 2), torch.zeros(3, 3)).shape == (0, 6)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_a_quantised_or_complex_weight_is_refused_untouched(dtype):
    weight = torch.ones(4, 4, dtype=dtype)
    with pytest.raises(LoKrValueError, match=str(dtype).removeprefix("torch.")):
        add_kron_(weight, torch.ones(2, 2), torch.ones(2, 2))
    assert (weight == torch.ones(4, 4, dtype=dtype)).all()


@pytest.mark.parametrize("shape", [(4, 6), (6, 4, 1), (24,), (), (6, 4, 3)])
def test_another_shape_is_refused_with_both_shapes(shape):
    weight = torch.zeros(shape)
    with pytest.raises(LoKrShapeError) as error:
        add_kron_(weight, torch.ones(2, 2), torch.ones(3, 2, 2))
    assert f"weight {shape}" in str(error.value) and "w2 (3, 2, 2)" in str(error.value)
    assert not weight.any()


def test_a_factor_of_trailing_ones_is_a_matrix(make_factor, product):
    w1, w2 = make_factor("whole", 2, 3), make_factor("whole", 2, 2, (3, 3))
    padded = Factor(whole=w1.whole[:, :, None, None])
    expected = product(w1, w2)
    assert torch.equal(materialize(padded, w2), expected)
    assert torch.equal(add_kron_(torch.zeros(4, 6, 3, 3).double(), padded, w2), expected)
