"""Each conversion is the nearest that there is, and the energy that it tells is the true one: against torch's SVD."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lokr_core import Factor, LoKrValueError, LoKrWeights
from lokr_core.conversion import (
    Dense,
    Keep,
    KronSvd,
    LowRank,
    best_product,
    energy_of,
    fit_dora,
    full,
    loha,
    lora,
    nearest_product,
    resized,
    resized_factor,
    shared_ranks,
    stacked,
)
from tests.interchange.adapters import FORMS, LOW, TUCKER, WHOLE, lokr

SHAPES = st.one_of(
    st.tuples(st.integers(1, 36), st.integers(1, 36)),
    st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
)


@given(
    shape=SHAPES,
    form=st.sampled_from(FORMS),
    rank=st.integers(1, 40),
    factor=st.sampled_from([-1, 2, 4]),
    scaling=st.sampled_from([1.0, -0.25, 3.0]),
    seed=st.integers(0, 1000),
)
def test_a_lora_of_any_rank_is_as_near_as_that_of_torchs_svd(shape, form, rank, factor, scaling, seed):
    torch.manual_seed(seed)
    weights = lokr(shape, form, factor=factor, scaling=scaling).fit(shape)
    delta = weights.delta(torch.float64).flatten(1)
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    best = delta - (u[:, :rank] * s[:rank]) @ v[:rank]
    found = KronSvd.of(weights)
    up, down = found.truncated(rank, torch.float64)
    assert up.shape[0] == shape[0] and down.shape[1:] == shape[1:] and up.shape[1] <= rank
    error = float((delta - up @ down.flatten(1)).norm() / delta.norm())
    assert error == pytest.approx(float(best.norm() / delta.norm()), abs=1e-5)
    told = energy_of(found.values, rank)
    assert 1 - told == pytest.approx(error**2, abs=1e-8)
    assert torch.allclose(found.values, s[: found.rank], atol=1e-9 * float(s[0]))


@given(values=st.lists(st.floats(0.01, 10), min_size=1, max_size=30), share=st.floats(0.01, 1))
def test_the_smallest_rank_that_keeps_what_is_asked_for(values, share):
    spectrum = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank = Keep(energy=share).rank_for(spectrum)
    assert energy_of(spectrum, rank) >= share - 1e-12
    assert rank == 1 or energy_of(spectrum, rank - 1) < share
    lost = Keep(error=(1 - share) ** 0.5 if share < 1 else 0).rank_for(spectrum)
    assert abs(lost - rank) <= 1


@given(data=st.data(), budget=st.integers(0, 60))
def test_a_size_is_shared_as_no_other_ranks_share_it_better(data, budget):
    """Against all ranks of three modules of equal cost."""
    spectra = [
        torch.tensor(sorted(data.draw(st.lists(st.floats(0.1, 5), min_size=1, max_size=4)))).flip(0) for _ in "abc"
    ]
    if budget < 30:
        with pytest.raises(LoKrValueError, match="does not hold one rank"):
            shared_ranks(spectra, [10] * 3, budget)
        return
    ranks = shared_ranks(spectra, [10] * 3, budget)
    assert 10 * sum(ranks) <= budget

    def energy(of):
        return sum(float(s[:r].square().sum()) for s, r in zip(spectra, of, strict=True))

    every = torch.cartesian_prod(*[torch.arange(1, len(s) + 1) for s in spectra]).tolist()
    assert energy(ranks) == pytest.approx(max(energy(r) for r in every if 10 * sum(r) <= budget))


@pytest.mark.parametrize("given", [dict(rank=0), dict(energy=1.5), dict(error=-1.0), dict(rank=4, energy=0.9)])
def test_what_is_out_of_range_or_given_twice_is_refused(given):
    with pytest.raises(LoKrValueError, match="out of range|Only one"):
        Keep(**given)


@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 4),
    kernel=st.sampled_from([(), (1, 1), (3, 3)]),
    seed=st.integers(0, 1000),
    dense=st.booleans(),
)
def test_the_nearest_product_is_that_of_the_rearranged_matrix(sizes, kernel, seed, dense):
    torch.manual_seed(seed)
    l, m, k, n = sizes
    up, down = torch.randn(l * k, 3, dtype=torch.float64), torch.randn(3, m * n, *kernel, dtype=torch.float64)
    delta = (up @ down.flatten(1)).view(l * k, m * n, *kernel)
    found = nearest_product(Dense(delta) if dense else LowRank(up, down), l, m)
    blocks = delta.unflatten(1, (m, n)).unflatten(0, (l, k)).transpose(1, 2).reshape(l * m, -1)
    best = torch.linalg.svdvals(blocks)[0] ** 2 / delta.norm() ** 2
    assert found.energy == pytest.approx(float(best), rel=1e-6)
    error = float((found.weights.delta(torch.float64) - delta).norm() / delta.norm())
    assert 1 - found.energy == pytest.approx(error**2, abs=1e-5)


@pytest.mark.parametrize("keep", [Keep(rank=4), Keep(energy=0.999999)])
@pytest.mark.parametrize("shape", [(64, 96), (64, 128, 3, 3)])
def test_a_merged_lokr_of_rank_4_is_found_again_among_many_factors(keep, shape):
    torch.manual_seed(0)
    weights = lokr(shape, LOW, rank=4, factor=8).fit(shape)
    found = best_product(Dense(weights.delta()), (-1, 2, 4, 8, 16), keep)
    assert found.weights.w1.shape == (8, 8) and found.weights.rank == 4
    assert torch.dist(found.weights.delta(), weights.delta()) < 1e-5 * weights.delta().norm()
    assert found.energy == pytest.approx(1, abs=1e-6)


@given(rank=st.integers(1, 8), seed=st.integers(0, 100))
def test_the_energy_of_a_random_difference_at_a_low_rank_is_the_true_one(rank, seed):
    torch.manual_seed(seed)
    delta = torch.randn(24, 32)
    found = nearest_product(Dense(delta), 4, 4, Keep(rank=rank))
    lost = float((found.weights.delta() - delta).norm() / delta.norm()) ** 2
    assert found.energy == pytest.approx(1 - lost, abs=1e-5)


@pytest.mark.parametrize("form", [WHOLE, LOW, TUCKER])
@pytest.mark.parametrize("size", [0.003, 0.03, 0.3])
def test_the_dora_that_was_merged_is_found_again(form, size):
    torch.manual_seed(0)
    shape = (48, 32, 3, 3) if form == TUCKER else (48, 64)
    base = torch.randn(shape, dtype=torch.float64)
    weights = lokr(shape, form, factor=4).fit(shape)
    delta = weights.delta(torch.float64)
    v = base + delta * (size * base.norm() / delta.norm())
    magnitude = 1 + 0.05 * torch.randn(shape[0], dtype=torch.float64)
    norms = base.flatten(1).norm(dim=1) * magnitude
    ones = [1] * (base.ndim - 1)
    tuned = v * (norms / v.flatten(1).norm(dim=1)).view(-1, *ones)
    found = fit_dora(base, tuned, lambda blocks: nearest_product(blocks, 4, 4))
    assert found.error < 1e-4
    w = found.nearest.weights
    again = w.add_to_(base.clone())
    assert torch.dist(again, tuned) < 1e-5 * tuned.norm()
    assert torch.allclose(w.dora_scale.flatten().double(), norms, rtol=1e-5)


@given(shape=SHAPES, form=st.sampled_from(FORMS), rank=st.integers(1, 12), seed=st.integers(0, 100))
def test_a_lokr_at_another_rank_keeps_what_it_says(shape, form, rank, seed):
    torch.manual_seed(seed)
    weights = lokr(shape, form, rank=3).fit(shape)
    found = resized(weights, Keep(rank=rank))
    delta = weights.delta(torch.float64)
    lost = float((found.weights.delta(torch.float64) - delta).norm() / delta.norm()) ** 2
    assert found.energy == pytest.approx(1 - lost, abs=1e-5)
    assert found.weights.numel <= weights.numel
    if form == WHOLE and found.weights.rank is not None:
        w2 = weights.w2.materialize(torch.float64).flatten(1)
        assert found.energy == pytest.approx(energy_of(torch.linalg.svdvals(w2), rank), abs=1e-6)


def test_a_tucker_factor_of_that_rank_is_kept_whole():
    torch.manual_seed(0)
    small = Factor(a=torch.randn(2, 12), b=torch.randn(2, 10), t=torch.randn(2, 2, 3, 3))
    mixed = torch.linalg.qr(torch.randn(5, 5)).Q
    wide = Factor(
        a=mixed[:, :2] @ small.a,
        b=mixed[:, :2] @ small.b,
        t=torch.einsum("ip,pqxy,jq->ijxy", mixed[:, :2], small.t, mixed[:, :2]),
    )
    found, energy = resized_factor(wide, 2)
    assert found.t.shape == (2, 2, 3, 3) and energy == pytest.approx(1, abs=1e-9)
    assert torch.allclose(found.materialize(), small.materialize(), atol=1e-4)


def test_a_loha_is_a_lora_of_its_rank_squared():
    torch.manual_seed(0)
    tensors = {"hada_w1_a": torch.randn(12, 2), "hada_w1_b": torch.randn(2, 10), "hada_w2_a": torch.randn(12, 2)}
    tensors |= {"hada_w2_b": torch.randn(2, 10), "alpha": torch.tensor(1.0)}
    expected = 0.5 * (tensors["hada_w1_a"] @ tensors["hada_w1_b"]) * (tensors["hada_w2_a"] @ tensors["hada_w2_b"])
    found = loha(tensors)
    assert found.rank == 4 and torch.allclose(found.delta(), expected, atol=1e-5)


@given(ranks=st.lists(st.integers(1, 3), min_size=1, max_size=3), gap=st.integers(0, 3), whole=st.booleans())
def test_updates_of_some_rows_are_put_together_exactly(ranks, gap, whole):
    torch.manual_seed(0)
    pieces, row = [], 0
    for rank in ranks:
        up, down = torch.randn(8, rank), torch.randn(rank, 20)
        pieces.append((row, full(up @ down) if whole else lora(up, down)))
        row += 8 + gap
    found = stacked(pieces, (row, 20))
    expected = torch.zeros(row, 20)
    for at, piece in pieces:
        expected[at : at + 8] += piece.delta()
    assert found.shape == (row, 20) and torch.allclose(found.delta(), expected, atol=1e-5)


def test_a_zero_update_converts_to_zero():
    weights = LoKrWeights(Factor(torch.zeros(4, 4)), Factor(torch.randn(4, 4)))
    up, down = KronSvd.of(weights).truncated(3)
    assert float((up @ down).abs().max()) == 0
    assert nearest_product(Dense(torch.zeros(16, 16)), 4, 4).energy == 1
