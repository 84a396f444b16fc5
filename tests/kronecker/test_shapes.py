"""Factors take the axes of the weight however their file holds the kernel; any rows of a product are products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lokr_core import Factor, LoKrShapeError, LoKrWeights
from lokr_core.kronecker import fit, materialize, split_rows


def reshaped(factor: Factor, **shapes) -> Factor:
    return Factor(**{name: t.reshape(shapes.get(name, t.shape)) for name, t in factor.tensors.items()})


@pytest.mark.parametrize("kernel", [(3,), (3, 2), (2, 1, 3), (1,), (1, 1)])
def test_a_flattened_kernel_gets_its_axes_back(make_factor, product, kernel):
    w1, w2 = make_factor("whole", 2, 3), make_factor("low-rank", 4, 5, kernel)
    stored = reshaped(w2, b=(2, -1))
    assert stored.kernel == ()
    fitted1, fitted2 = fit(w1, stored, (8, 15, *kernel))
    assert fitted2.shape == (4, 5, *kernel)
    assert torch.allclose(materialize(fitted1, fitted2), product(w1, w2))


@pytest.mark.parametrize("form", ["whole", "low-rank"])
@pytest.mark.parametrize("stored,wanted", [((), (1, 1)), ((1, 1), ()), ((1,), (1, 1)), ((1, 1), (1,)), ((), (1,))])
def test_kernels_of_1_come_and_go(make_factor, product, form, stored, wanted):
    w1, w2 = make_factor("whole", 2, 3), make_factor(form, 4, 5, stored)
    fitted = fit(w1, w2, (8, 15, *wanted))
    assert torch.allclose(materialize(*fitted), product(w1, w2).reshape(8, 15, *wanted))


@pytest.mark.parametrize("stored,wanted", [((3, 1), (3,)), ((3,), (3,)), ((3, 2, 1, 1), (3, 2))])
def test_a_tucker_core_may_have_trailing_ones(make_factor, product, stored, wanted):
    """PEFT stores a Conv1d's core as (r, r, k, 1)."""
    w1, w2 = make_factor("whole", 2, 3), make_factor("tucker", 4, 5, stored)
    fitted = fit(w1, w2, (8, 15, *wanted))
    assert torch.allclose(materialize(*fitted), product(w1, w2).reshape(8, 15, *wanted))


@pytest.mark.parametrize("use_effective_conv2d", [True, False])
@pytest.mark.parametrize("decompose_both", [True, False])
@pytest.mark.parametrize("layer", ["Conv1d", "Conv2d", "Linear"])
def test_factors_as_peft_makes_them_give_pefts_delta(layer, decompose_both, use_effective_conv2d):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = {
        "Linear": torch.nn.Linear(60, 64), "Conv1d": torch.nn.Conv1d(60, 64, 3), "Conv2d": torch.nn.Conv2d(60, 64, 3)
    }[layer]  # fmt: skip
    config = peft.LoKrConfig(
        r=2, alpha=2, target_modules=["0"], init_weights=False, decompose_both=decompose_both,
        use_effective_conv2d=use_effective_conv2d,
    )  # fmt: skip
    module = peft.get_peft_model(torch.nn.Sequential(base), config).base_model.model[0]

    def tensor(name):
        stored = getattr(module, name)
        return stored["default"].detach() if "default" in stored else None

    w1 = Factor(tensor("lokr_w1"), tensor("lokr_w1_a"), tensor("lokr_w1_b"))
    w2 = Factor(tensor("lokr_w2"), tensor("lokr_w2_a"), tensor("lokr_w2_b"), tensor("lokr_t2"))
    assert (w2.t is not None) == (use_effective_conv2d and layer != "Linear")
    expected = module.get_delta_weight("default").detach()
    found = LoKrWeights(w1, w2).fit(tuple(base.weight.shape)).delta()
    assert torch.allclose(found, expected, atol=1e-6) and expected.abs().max() > 1e-3


def test_the_order_of_the_factors_is_free(make_factor, product):
    for (l, k), (m, n) in [((2, 6), (3, 5)), ((6, 2), (3, 5)), ((6, 2), (5, 3))]:
        w1, w2 = make_factor("whole", l, m), make_factor("whole", k, n)
        assert torch.equal(materialize(*fit(w1, w2, (12, 15))), product(w1, w2))


@pytest.mark.parametrize(
    "kernel,shape",
    [((), (8, 16)), ((), (9, 15)), ((3,), (8, 15, 4)), ((3,), (8, 15)), ((3, 1), (8, 15, 3)), ((3, 3), (8, 15, 9)),
     ((1,), (8, 15, 3)), ((), (8, 15, 2)), ((), (8,)), ((), ())],
)  # fmt: skip
@pytest.mark.parametrize("form", ["whole", "low-rank"])
def test_another_weight_is_refused(make_factor, form, kernel, shape):
    w1, w2 = make_factor("whole", 2, 3), make_factor(form, 4, 5, kernel)
    with pytest.raises(LoKrShapeError) as error:
        fit(w1, w2, shape)
    assert str(shape) in error.value.expected
    assert "w1 (2, 3)" in error.value.found and f"w2 {w2.shape}" in error.value.found


@pytest.mark.parametrize(
    "core,shape", [((3, 3), (8, 15, 3)), ((3, 3), (8, 15)), ((1, 1), (8, 15)), ((3,), (8, 15, 3, 3))]
)
def test_another_kernel_than_the_cores_is_refused(make_factor, core, shape):
    w1, w2 = make_factor("whole", 2, 3), make_factor("tucker", 4, 5, core)
    assert not LoKrWeights(w1, w2).fits(shape)


@pytest.mark.parametrize(
    "tensors,said",
    [
        ({"whole": (3,)}, "two axes"),
        ({"a": (3, 2)}, "both its halves"),
        ({"b": (2, 3)}, "both its halves"),
        ({}, "both its halves"),
        ({"a": (3, 2), "b": (3, 4)}, "ranks"),
        ({"a": (3,), "b": (3, 4)}, "number of axes"),
        ({"a": (3, 2, 1), "b": (2, 4)}, "number of axes"),
        ({"a": (2, 3), "b": (2, 4), "t": (2, 2)}, "core"),
        ({"a": (2, 3), "b": (2, 4), "t": (3, 2, 3)}, "core"),
        ({"a": (3, 2), "b": (2, 4), "t": (2, 2, 3)}, "core"),
        ({"a": (2, 3), "b": (2, 4, 3), "t": (2, 2, 3)}, "core"),
    ],
)
def test_halves_that_do_not_belong_together_are_refused(tensors, said):
    with pytest.raises(LoKrShapeError, match=said) as error:
        Factor(**{name: torch.ones(shape) for name, shape in tensors.items()})
    assert error.value.expected and error.value.found


@pytest.mark.parametrize("form", ["whole", "low-rank", "tucker"])
def test_any_rows_are_covered_once(make_factor, product, form):
    w1, w2 = make_factor("low-rank", 3, 2), make_factor(form, 4, 2, (2,))
    whole = product(w1, w2)

    @given(st.integers(0, 11), st.integers(1, 12))
    def check(start, length):
        length = min(length, 12 - start)
        rows = torch.full((length, *whole.shape[1:]), torch.nan, dtype=torch.float64)
        covered = 0
        for offset, size, part1, part2 in split_rows(w1, w2, start, length):
            assert rows[offset : offset + size].isnan().all(), "no row twice"
            rows[offset : offset + size] = product(part1, part2)
            covered += 1
        assert covered <= 3
        assert torch.allclose(rows, whole[start : start + length])

    check()


def test_rows_of_an_update_take_their_magnitudes_along(make_factor):
    w1, w2 = make_factor("whole", 3, 2), make_factor("whole", 4, 2)
    weights = LoKrWeights(w1, w2, 0.5, dora_scale=torch.rand(12, 1).double() + 0.5)
    base = torch.randn(12, 4).double()
    expected = weights.add_to_(base.clone())[3:10]
    found = base[3:10].clone()
    for offset, part in weights.rows(3, 7):
        part.add_to_(found[offset : offset + part.shape[0]])
    assert torch.allclose(found, expected)


def test_rows_of_an_update_with_magnitudes_of_columns_are_refused(make_factor):
    weights = LoKrWeights(make_factor("whole", 3, 2), make_factor("whole", 4, 2), dora_scale=torch.ones(1, 4))
    with pytest.raises(LoKrShapeError, match="input axis"):
        list(weights.rows(0, 4))
    assert len(list(weights.rows(0, 12))) == 1


@pytest.mark.parametrize("start,length", [(0, 13), (-1, 2), (12, 1), (3, 0)])
def test_rows_that_are_not_there_are_refused(make_factor, start, length):
    weights = LoKrWeights(make_factor("whole", 3, 2), make_factor("whole", 4, 2))
    with pytest.raises(LoKrShapeError, match="0 to 12"):
        list(weights.rows(start, length))


@pytest.mark.parametrize("dora", [None, (12, 1), (1, 4)])
@pytest.mark.parametrize("l,k", [(4, 3), (3, 4), (2, 6), (1, 12)])
@pytest.mark.parametrize("form", ["whole", "low-rank"])
def test_the_halves_of_an_updates_rows_can_be_swapped(make_factor, form, l, k, dora):
    w1, w2 = make_factor(form, l, 2), make_factor(form, k, 2)
    weights = LoKrWeights(w1, w2, 0.5, dora_scale=None if dora is None else torch.rand(dora).double() + 0.5)
    if dora == (1, 4) and l % 2 and l > 1:  # neither factor's rows can be turned by half the product's
        with pytest.raises(LoKrShapeError, match="input axis"):
            list(weights.swapped_halves())
        return
    base = torch.randn(12, 4).double()
    expected = weights.add_to_(base.clone()).roll(6, 0)
    found = base.roll(6, 0)
    for row, part in weights.swapped_halves():
        part.add_to_(found[row : row + part.shape[0]])
    assert torch.allclose(found, expected)
