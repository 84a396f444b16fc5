"""Several adapters as one: what the one does to a model is what the others do to it together."""

from __future__ import annotations

import pytest
import torch

from lokr_core import (
    Adapter,
    Factor,
    LoKrShapeError,
    LoKrValueError,
    LoKrWeights,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from lokr_core.formats import parse_adapter
from lokr_core.kronecker import nearest_kron
from lokr_core.tools import EXACT, Term, combine
from lokr_core.tools._combine import NEAREST, REFUSE


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 7 * sum(shape)))


def lokr(seed: int, w1: Factor | None = None, rank: int | None = 2, **arguments) -> LoKrWeights:
    """An update of a weight (12, 20): w1 (3, 4) ⊗ w2 (4, 5)."""
    w1 = w1 or Factor(draw(3, 4, seed=seed))
    w2 = (
        Factor(draw(4, 5, seed=seed))
        if rank is None
        else Factor(a=draw(4, rank, seed=seed), b=draw(rank, 5, seed=seed))
    )
    return LoKrWeights(w1, w2, **arguments)


def model() -> dict[str, torch.Tensor]:
    return {"a.weight": draw(12, 20), "b.weight": draw(12, 20, seed=1), "c.weight": draw(8, 6, 3, 3), "n.bias": draw(8)}


def applied(*terms: tuple[Adapter, float]) -> dict[str, torch.Tensor]:
    weights = model()
    for adapter, strength in terms:
        merge_adapter(weights, adapter, strength)
    return weights


def same(one: dict, other: dict) -> bool:
    return all(torch.allclose(one[name], other[name], atol=2e-5) for name in one)


def through_a_file(adapter: Adapter, tmp_path) -> Adapter:
    save_adapter(adapter, tmp_path / "combined.safetensors")
    return load_adapter(tmp_path / "combined.safetensors")


@pytest.mark.parametrize("strength", [1.0, 0.3, -2.0])
@pytest.mark.parametrize("weights", [lokr(0), lokr(0, rank=None), lokr(0, scaling=0.25, alpha=0.5)])
def test_one_adapter_keeps_its_form_and_takes_its_strength_along(weights, strength, tmp_path):
    combined = combine([Term(Adapter({"a": weights}), strength)])
    assert (combined.kept, combined.differences) == (1, 0)
    again = through_a_file(combined.adapter, tmp_path)
    assert again["a"].rank == weights.rank
    assert same(applied((again, 1.0)), applied((Adapter({"a": weights}), strength)))


def test_modules_of_one_adapter_only_are_kept_side_by_side(tmp_path):
    one, two = Adapter({"a": lokr(0)}), Adapter({"b": lokr(1)})
    combined = combine([Term(one, 0.5), Term(two, 2.0)])
    assert combined.kept == 2
    assert same(applied((through_a_file(combined.adapter, tmp_path), 1.0)), applied((one, 0.5), (two, 2.0)))


@pytest.mark.parametrize("rank", [2, None])
def test_updates_with_a_factor_in_common_are_one_lokr_exactly(rank, tmp_path):
    w1 = Factor(draw(3, 4))
    one, two = Adapter({"a": lokr(0, w1, rank)}), Adapter({"a": lokr(1, w1.map(lambda t: t * -3), rank)})
    combined = combine([Term(one, 0.5), Term(two, 0.7)], REFUSE)
    assert combined.summed == 1
    assert same(applied((through_a_file(combined.adapter, tmp_path), 1.0)), applied((one, 0.5), (two, 0.7)))


def test_others_become_a_full_difference_which_is_exact(tmp_path):
    one, two = Adapter({"a": lokr(0)}), Adapter({"a": lokr(1)})
    combined = combine([Term(one, 0.5), Term(two, 0.7)])
    assert combined.differences == 1
    assert combined.adapter["a"].w1.shape == (1, 1)
    assert same(applied((through_a_file(combined.adapter, tmp_path), 1.0)), applied((one, 0.5), (two, 0.7)))


def test_or_the_nearest_lokr_with_its_error_told(tmp_path):
    one, two = Adapter({"a": lokr(0)}), Adapter({"a": lokr(1)})
    combined = combine([Term(one, 0.5), Term(two, 0.7)], NEAREST)
    wanted = 0.5 * one["a"].delta() + 0.7 * two["a"].delta()
    found = through_a_file(combined.adapter, tmp_path)["a"].delta()
    assert combined.nearest == 1
    assert combined.worst == pytest.approx(float((found - wanted).norm() / wanted.norm()), rel=1e-3)


def test_or_are_refused():
    with pytest.raises(LoKrValueError, match="their sum is not a LoKr") as error:
        combine([Term(Adapter({"a": lokr(0)})), Term(Adapter({"a": lokr(1)}))], REFUSE)
    assert error.value.module == "a"


@pytest.mark.parametrize("terms", [2, 3, 5])
def test_no_single_product_is_nearer_than_the_one_found(terms):
    pairs = [(Factor(draw(3, 4, seed=i)), Factor(a=draw(6, 2, seed=i), b=draw(2, 5, seed=i))) for i in range(terms)]
    scales = [0.3 * i - 0.5 for i in range(terms)]
    total = sum(s * torch.kron(w1.whole, w2.materialize()) for s, (w1, w2) in zip(scales, pairs, strict=True))
    # Van Loan and Pitsianis: laid out by blocks, the nearest product is the largest singular pair.
    rows = total.reshape(3, 6, 4, 5).permute(0, 2, 1, 3).reshape(12, 30).double()
    singular = torch.linalg.svdvals(rows)
    w1, w2, error = nearest_kron(pairs, scales)
    assert error == pytest.approx(float((singular[1:].square().sum() / singular.square().sum()).sqrt()), rel=1e-4)
    missing = (torch.kron(w1.materialize(), w2.materialize()) - total).norm() / total.norm()
    assert float(missing) == pytest.approx(error, rel=1e-4)


def test_a_strength_per_module_leaves_out_what_it_does_not_name(tmp_path):
    adapter = Adapter({"a": lokr(0), "b": lokr(1)})
    combined = combine([Term(adapter, {"b": 0.5})])
    assert list(combined.adapter) == ["b"]
    assert same(applied((through_a_file(combined.adapter, tmp_path), 1.0)), applied((Adapter({"b": lokr(1)}), 0.5)))


def test_a_flattened_kernel_meets_one_with_axes(tmp_path):
    w1 = Factor(draw(2, 2))
    flat = Adapter({"c": LoKrWeights(w1, Factor(a=draw(4, 2), b=draw(2, 27)))})
    axes = Adapter({"c": LoKrWeights(Factor(draw(2, 2, seed=3)), Factor(draw(4, 3, 3, 3)))})
    combined = combine([Term(flat, 0.5), Term(axes, 0.5)])
    assert same(applied((through_a_file(combined.adapter, tmp_path), 1.0)), applied((flat, 0.5), (axes, 0.5)))


def test_one_module_in_two_spellings_is_one():
    w1 = Factor(draw(3, 4))
    names = ("lora_unet_blocks_0_attn_q", "diffusion_model.blocks.0.attn.q")
    parsed = [
        parse_adapter({f"{name}.lokr_w1": w1.whole, f"{name}.lokr_w2": draw(4, 5, seed=i)})
        for i, name in enumerate(names)
    ]
    combined = combine([Term(adapter) for adapter in parsed])
    assert list(combined.adapter) == [names[0]] and combined.summed == 1


def test_lora_and_biases_come_along(tmp_path):
    tensors = {"a.lokr_w1": draw(3, 4), "a.lokr_w2": draw(4, 5), "n.diff_b": draw(8, seed=5)}
    tensors |= {"b.lora_up.weight": draw(12, 3), "b.lora_down.weight": draw(3, 20), "b.alpha": torch.tensor(1.5)}
    mixed, other = parse_adapter(tensors), Adapter({"b": lokr(4)})
    combined = combine([Term(mixed, 0.5), Term(other, 2.0), Term(mixed, 0.25)])
    assert same(applied((through_a_file(combined.adapter, tmp_path), 1.0)), applied((mixed, 0.75), (other, 2.0)))


def test_dora_is_kept_at_strength_1_and_refused_where_it_would_be_another_change(tmp_path):
    dora = Adapter({"a": lokr(0, dora_scale=draw(12, 1).abs())})
    kept = through_a_file(combine([Term(dora)]).adapter, tmp_path)
    assert same(applied((kept, 1.0)), applied((dora, 1.0)))
    for terms in ([Term(dora, 0.5)], [Term(dora), Term(Adapter({"a": lokr(1)}))]):
        with pytest.raises(LoKrValueError, match="DoRA"):
            combine(terms)


def test_other_algorithms_are_kept_as_they_are_or_refused():
    loha = {f"b.hada_w{i}_{x}": draw(12, 2) if x == "a" else draw(2, 20) for i in (1, 2) for x in "ab"}
    adapter = parse_adapter({"a.lokr_w1": draw(3, 4), "a.lokr_w2": draw(4, 5), **loha})
    assert combine([Term(adapter)]).adapter.other.keys() == loha.keys()
    for terms in ([Term(adapter, 0.5)], [Term(adapter), Term(adapter)]):
        with pytest.raises(LoKrValueError, match="only be stored unchanged"):
            combine(terms)


def test_adapters_for_different_models_are_told():
    other = Adapter({"a": LoKrWeights(Factor(draw(2, 2)), Factor(draw(4, 4)))})
    with pytest.raises(LoKrShapeError) as error:
        combine([Term(Adapter({"a": lokr(0)})), Term(other)])
    assert error.value.module == "a" and "different models" in error.value.hint


@pytest.mark.parametrize(
    "terms, overlap",
    [([], EXACT), ([Term(Adapter({"a": lokr(0)}), 0.0)], EXACT), ([Term(Adapter({"a": lokr(0)}))], "?")],
)
def test_nothing_is_an_error(terms, overlap):
    with pytest.raises(LoKrValueError):
        combine(terms, overlap)


def test_a_strength_that_is_none_is_refused():
    with pytest.raises(LoKrValueError, match="finite"):
        combine([Term(Adapter({"a": lokr(0)}), float("nan"))])


def test_the_file_says_what_it_was_made_of(tmp_path):
    save_adapter(
        Adapter({"a": lokr(0)}, metadata={"ss_base_model_version": "x", "own": "1"}), tmp_path / "one.safetensors"
    )
    save_adapter(Adapter({"b": lokr(1)}, metadata={"ss_base_model_version": "x"}), tmp_path / "two.safetensors")
    terms = [Term(load_adapter(tmp_path / f"{name}.safetensors"), 0.5) for name in ("one", "two")]
    metadata = combine(terms).adapter.metadata
    assert metadata["ss_base_model_version"] == "x" and "own" not in metadata
    assert "one.safetensors" in metadata["lokr_combined"]
