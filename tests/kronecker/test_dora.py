"""``add_dora_`` is W + s (W' - W), with W' = V · dora_scale / ‖V‖ and V = W + scale · w1 ⊗ w2."""

from __future__ import annotations

import pytest
import torch

from lokr_core import LoKrShapeError, LoKrValueError, LoKrWeights
from lokr_core.kronecker import add_dora_

KERNELS = [(), (3,), (2, 3), (2, 1, 2)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def trained(base: torch.Tensor, delta: torch.Tensor, dora_scale: torch.Tensor, axis: str) -> torch.Tensor:
    """The dense formula, in fp64, per row or per column."""
    v = base.double() + delta
    if axis == "out":
        rows = [row * dora_scale.flatten()[i] / row.norm() for i, row in enumerate(v)]
        return torch.stack(rows)
    columns = [v[:, j] * dora_scale.flatten()[j] / v[:, j].norm() for j in range(v.shape[1])]
    return torch.stack(columns, 1)


def close(found, expected, dtype):
    return torch.allclose(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def case(make_factor, product, axis, kernel, form="low-rank", dtype=torch.float64):
    w1, w2 = make_factor("whole", 3, 4), make_factor(form, 5, 6, kernel)
    base = torch.randn(15, 24, *kernel).to(dtype)
    scale = torch.rand(15, *(1,) * (1 + len(kernel))) if axis == "out" else torch.rand(1, 24, *(1,) * len(kernel))
    return w1, w2, base, scale.double() + 0.5


@pytest.mark.every_pair
@pytest.mark.parametrize("axis", ["out", "in"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", ["whole", "low-rank"])
@pytest.mark.parametrize("strength", [1.0, 0.4, -1.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_is_the_dense_formula(make_factor, product, axis, kernel, form, strength, dtype):
    torch.manual_seed(0)
    w1, w2, base, magnitude = case(make_factor, product, axis, kernel, form, dtype)
    after = trained(base, 0.7 * product(w1, w2), magnitude, axis)
    weight = base.clone()
    assert add_dora_(weight, w1, w2, 0.7, magnitude, axis, strength) is weight
    assert close(weight, base.double() + strength * (after - base.double()), dtype)
    assert not close(weight, base.double(), dtype)


@pytest.mark.parametrize("axis", ["out", "in"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_change_is_that_of_the_base_whatever_the_weight_is(make_factor, product, axis, dtype):
    torch.manual_seed(0)
    w1, w2, base, magnitude = case(make_factor, product, axis, (3,), dtype=dtype)
    change = trained(base, product(w1, w2), magnitude, axis) - base.double()
    patched = torch.randn(base.shape).to(dtype)
    before, kept = patched.double().clone(), base.clone()
    add_dora_(patched, w1, w2, 1.0, magnitude, axis, 0.5, base)
    assert close(patched, before + 0.5 * change, dtype)
    assert torch.equal(base, kept), "the base is only read"


@pytest.mark.parametrize("axis", ["out", "in"])
def test_large_weights_in_many_blocks(make_factor, product, axis):
    torch.manual_seed(0)
    w1, w2 = make_factor("whole", 4, 8, dtype=torch.float32), make_factor("low-rank", 200, 100, rank=4)
    base, magnitude = torch.randn(800, 800), torch.rand(800).double() + 0.5
    weight = base.clone()
    add_dora_(weight, w1, w2, 0.1, magnitude, axis)
    assert close(weight, trained(base, 0.1 * product(w1, w2), magnitude, axis), torch.float32)


@pytest.mark.parametrize("axis", ["out", "in"])
def test_a_view_and_autocast_change_nothing(make_factor, product, axis):
    torch.manual_seed(0)
    w1, w2, base, magnitude = case(make_factor, product, axis, (2, 3), dtype=torch.float32)
    expected = trained(base, product(w1, w2), magnitude, axis)
    weight = base.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not weight.is_contiguous()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        add_dora_(weight, w1, w2, 1.0, magnitude, axis)
    assert close(weight, expected, torch.float32)


def test_the_magnitude_of_an_untouched_weight_changes_nothing(make_factor):
    w1, w2 = make_factor("whole", 3, 4).map(torch.zeros_like), make_factor("whole", 5, 6)
    weight = torch.randn(15, 24).double()
    before = weight.clone()
    add_dora_(weight, w1, w2, 1.0, weight.norm(dim=1), "out")
    assert torch.allclose(weight, before, rtol=1e-14)


def test_a_row_of_zeros_stays_finite(make_factor):
    w1, w2 = make_factor("whole", 3, 4).map(torch.zeros_like), make_factor("whole", 5, 6)
    assert not add_dora_(torch.zeros(15, 24), w1, w2, 1.0, torch.ones(15), "out").any()


def test_strength_0_changes_no_bit(make_factor):
    weight = torch.randn(15, 24).half()
    before = weight.clone()
    add_dora_(weight, make_factor("whole", 3, 4), make_factor("whole", 5, 6), 1.0, torch.ones(15), "out", 0.0)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("axis,numbers", [("out", 24), ("in", 15), ("out", 1), ("in", 12)])
def test_a_magnitude_of_another_size_is_refused(make_factor, axis, numbers):
    weight = torch.ones(15, 24)
    with pytest.raises(LoKrShapeError, match=f"{axis}put axis") as error:
        add_dora_(weight, make_factor("whole", 3, 4), make_factor("whole", 5, 6), 1.0, torch.ones(numbers), axis)
    assert f"{numbers} numbers" in str(error.value) and "(15, 24)" in str(error.value)
    assert (weight == 1).all()


def test_a_base_of_another_shape_is_refused(make_factor):
    arguments = make_factor("whole", 3, 4), make_factor("whole", 5, 6), 1.0, torch.ones(15), "out", 1.0
    with pytest.raises(LoKrShapeError, match="base"):
        add_dora_(torch.ones(15, 24), *arguments, torch.ones(24, 15))


def test_a_quantised_weight_is_refused(make_factor):
    with pytest.raises(LoKrValueError, match="int8"):
        add_dora_(
            torch.ones(15, 24, dtype=torch.int8), make_factor("whole", 3, 4), make_factor("whole", 5, 6), 1.0,
            torch.ones(15), "out",
        )  # fmt: skip


@pytest.mark.parametrize(
    "out,columns,shape,axis",
    [
        (15, 24, (15, 1), "out"),
        (15, 24, (1, 24), "in"),
        (15, 24, (15,), "out"),
        (15, 24, (24,), "in"),
        (16, 16, (16,), "out"),  # does not tell: LyCORIS' default
        (16, 16, (16, 1), "out"),
        (16, 16, (1, 16), "in"),
        (16, 16, (1, 16, 1, 1), "in"),
        (1, 16, (1, 1), "out"),
        (1, 16, (), "out"),
    ],
)
def test_the_axis_is_read_off_the_shape(make_factor, out, columns, shape, axis):
    weights = LoKrWeights(make_factor("whole", 1, 1), make_factor("whole", out, columns), dora_scale=torch.ones(shape))
    assert weights.dora_axis == axis


@pytest.mark.parametrize("shape", [(), (7,), (15, 24), (24, 1), (1, 15), (2, 12), (1, 1, 24)])
def test_a_magnitude_of_neither_axis_is_refused(make_factor, shape):
    with pytest.raises(LoKrShapeError, match=r"\(15, 1, ...\) or \(1, 24, ...\)"):
        LoKrWeights(make_factor("whole", 3, 4), make_factor("whole", 5, 6), dora_scale=torch.ones(shape))


def test_a_magnitude_that_only_divides_the_columns_is_one_of_a_flattened_kernel_or_none(make_factor):
    w1, w2 = make_factor("whole", 3, 4), make_factor("low-rank", 5, 54)  # 6 columns with a kernel of 9
    weights = LoKrWeights(w1, w2, dora_scale=torch.ones(1, 24, 1, 1))
    assert weights.fits((15, 24, 3, 3))
    assert not weights.fits((15, 216)), "a Linear's magnitude has all of its columns"
