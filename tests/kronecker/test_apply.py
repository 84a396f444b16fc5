"""``apply_kron`` gives what the product, built whole, gives as a Linear's or a convolution's weight."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lokr_core import Factor, LoKrShapeError
from lokr_core.kronecker import apply_kron, materialize

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
FORMS1, FORMS2 = ["whole", "low-rank"], ["whole", "low-rank", "tucker"]


@pytest.mark.parametrize("form1", FORMS1)
@pytest.mark.parametrize("form2", ["whole", "low-rank"])
@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (2, 3, 4), (0,), (2, 0)])
def test_linear(make_factor, form1, form2, lead):
    torch.manual_seed(0)
    w1, w2 = make_factor(form1, 4, 3), make_factor(form2, 5, 6)
    x = torch.randn(*lead, 18).double()
    assert torch.allclose(apply_kron(x, w1, w2, 0.3), 0.3 * F.linear(x, materialize(w1, w2)))


@pytest.mark.parametrize("shape", list(itertools.product([1, 2, 30], [1, 3, 40], [1, 2, 30], [1, 3, 40])))
def test_every_order_of_contraction_that_sizes_ask_for(make_factor, shape):
    torch.manual_seed(0)
    l, k, m, n = shape
    x = torch.randn(3, m * n).double()
    for form1, form2, rank in itertools.product(FORMS1, ["whole", "low-rank"], [1, 8]):
        w1, w2 = make_factor(form1, l, m, rank=rank), make_factor(form2, k, n, rank=rank)
        assert torch.allclose(apply_kron(x, w1, w2), F.linear(x, materialize(w1, w2)))


CONVOLUTIONS = {
    "1d": ((3,), (9,), {}),
    "1d stride, padding, dilation": ((3,), (11,), {"stride": 2, "padding": 2, "dilation": 2}),
    "1d same": ((4,), (9,), {"padding": "same"}),
    "2d": ((3, 2), (6, 7), {}),
    "2d uneven arguments": ((3, 2), (8, 9), {"stride": (2, 3), "padding": (1, 0), "dilation": (1, 2)}),
    "2d same, dilated": ((3, 3), (6, 7), {"padding": "same", "dilation": 2}),
    "2d valid": ((3, 3), (6, 7), {"padding": "valid"}),
    "2d 1x1": ((1, 1), (6, 7), {}),
    "2d 1x1, strided and padded": ((1, 1), (6, 7), {"stride": 2, "padding": 1}),
    "2d 1x3": ((1, 3), (6, 7), {"padding": (0, 1)}),
    "3d": ((2, 3, 1), (4, 5, 6), {"padding": (1, 1, 0), "stride": (1, 2, 2)}),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.every_pair
@pytest.mark.parametrize("form1", FORMS1)
@pytest.mark.parametrize("form2", FORMS2)
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_convolution(make_factor, name, form1, form2, groups):
    """l = 4: with 2 and 4 groups each has whole rows of w1, with 8 it has parts of one."""
    torch.manual_seed(0)
    kernel, size, arguments = CONVOLUTIONS[name]
    w1, w2 = make_factor(form1, 4, 3), make_factor(form2, 6, 2, kernel)
    x = torch.randn(2, groups * 6, *size).double()
    expected = CONV[len(kernel)](x, materialize(w1, w2), groups=groups, **arguments)
    found = apply_kron(x, w1, w2, 0.3, groups=groups, **arguments)
    assert found.shape == expected.shape
    assert torch.allclose(found, 0.3 * expected)
    one = apply_kron(x[0], w1, w2, 0.3, groups=groups, **arguments)
    assert torch.allclose(one, 0.3 * expected[0]), "a sample without a batch axis"


def test_an_empty_batch(make_factor):
    w1, w2 = make_factor("whole", 4, 3), make_factor("whole", 5, 2, (3, 3))
    assert apply_kron(torch.zeros(0, 6, 5, 5).double(), w1, w2).shape == (0, 20, 3, 3)


@pytest.mark.parametrize("form1", FORMS1)
@pytest.mark.parametrize("form2", FORMS2)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients(make_factor, form1, form2, groups):
    torch.manual_seed(0)
    w1, w2 = make_factor(form1, 2, 2), make_factor(form2, 4, 1, (3,))
    names1, names2 = list(w1.tensors), list(w2.tensors)
    x = torch.randn(1, 2 * groups, 5).double()
    tensors = [t.requires_grad_() for t in (x, *w1.tensors.values(), *w2.tensors.values())]

    def function(x, *tensors):
        first, second = tensors[: len(names1)], tensors[len(names1) :]
        factors = Factor(**dict(zip(names1, first, strict=True))), Factor(**dict(zip(names2, second, strict=True)))
        return apply_kron(x, *factors, 0.5, padding=1, stride=2, groups=groups)

    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_the_inputs_dtype_is_followed(make_factor, dtype, kernel):
    if dtype == torch.float16:
        try:
            torch.zeros(1, 1, 1, dtype=dtype) @ torch.zeros(1, 1, 1, dtype=dtype)
        except RuntimeError:
            pytest.skip("THIS TORCH MULTIPLIES NO fp16 MATRICES ON A CPU")
    torch.manual_seed(0)
    w1, w2 = make_factor("whole", 2, 3, dtype=torch.float16), make_factor("low-rank", 4, 2, kernel, dtype=torch.float32)
    x = torch.randn(2, 6, *(5,) * len(kernel)).to(dtype)
    y = apply_kron(x, w1, w2)
    weight = materialize(w1, w2, torch.float64)
    expected = F.conv2d(x.double(), weight) if kernel else F.linear(x.double(), weight)
    assert y.dtype == dtype
    assert torch.allclose(y.double(), expected, rtol=0, atol=16 * torch.finfo(dtype).eps * expected.abs().max())


@pytest.mark.parametrize(
    "kernel,shape",
    [((), (4, 5)), ((), (3, 4)), ((), (12,)), ((), ()), ((3,), (2, 5, 9)), ((3,), (2, 12, 9)), ((3,), (6,)),
     ((3,), (2, 6, 9, 9)), ((3, 3), (2, 6, 9, 9, 9))],
)  # fmt: skip
def test_an_input_of_other_channels_is_refused(make_factor, kernel, shape):
    """(3, 4) and (12,) hold a multiple of 6 numbers: reshaping alone would take them for other inputs."""
    with pytest.raises(LoKrShapeError, match="6 channels") as error:
        apply_kron(torch.zeros(shape).double(), make_factor("whole", 2, 3), make_factor("whole", 4, 2, kernel))
    assert error.value.found == f"input {shape}"


def multiplications(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2


def test_low_rank_factors_stay_low_rank_and_the_cheaper_order_is_taken(make_factor):
    x = torch.randn(64, 256).double()
    w1, w2 = make_factor("whole", 16, 16), make_factor("low-rank", 16, 16, rank=1)
    # b (1, 16) on 64 * 16 rows, w1 (16, 16) on 64 columns, a (16, 1) on 64 * 16 rows: no order costs less.
    assert multiplications(lambda: apply_kron(x, w1, w2)) == 64 * (16 * 16 + 16 * 16 + 16 * 16)
    # A wide w1 goes last and a narrow one first.
    x = torch.randn(64, 4 * 16).double()
    wide, narrow, square = make_factor("whole", 64, 4), make_factor("whole", 4, 64), make_factor("whole", 16, 16)
    assert multiplications(lambda: apply_kron(x, wide, square)) == 64 * (16 * 16 * 4 + 64 * 4 * 16)
    x = torch.randn(64, 64 * 16).double()
    assert multiplications(lambda: apply_kron(x, narrow, square)) == 64 * (4 * 64 * 16 + 16 * 16 * 4)


def test_a_trailing_kernel_of_ones_on_the_first_factor_is_no_kernel(make_factor):
    x, w1, w2 = torch.randn(5, 6).double(), make_factor("whole", 4, 2), make_factor("whole", 2, 3)
    padded = Factor(whole=w1.whole[:, :, None, None])
    assert torch.equal(apply_kron(x, padded, w2), apply_kron(x, w1, w2))
    with pytest.raises(LoKrShapeError, match="first factor has a kernel"):
        apply_kron(x, torch.ones(4, 2, 3), w2)
