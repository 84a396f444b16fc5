"""The scaling of each trainer that does not mean alpha as LyCORIS does, from its own formula, however much of its
metadata is left and in whatever order."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lokr_core.formats import parse_adapter
from lokr_core.scaling import RULES
from tests.formats.lokr_tensors import keyed, lokr

MODULE = "lora_unet_blocks_0_self_attn_q_proj"
RANKS, ALPHAS = st.integers(1, 512), st.sampled_from([0.25, 1.0, 3.0, 16.0, 32.0])


def kohya(network: str, dim: object, alpha: object, **arguments: object) -> dict[str, str]:
    """The metadata of sd-scripts and what came of it; a value None is as if stripped."""
    values = {"ss_network_module": network, "ss_network_dim": dim, "ss_network_alpha": alpha}
    values |= {"ss_network_args": json.dumps(arguments)} if arguments else {}
    return {key: str(value) for key, value in values.items() if value is not None}


def low_w1(rank: int, alpha: float, dim: float | None = None, side: int = 2) -> dict[str, torch.Tensor]:
    """A low-rank w1 (side, side) and a whole w2: what musubi-tuner's LTX-2 fork writes with ``decompose_both``."""
    tensors = {"lokr_w1_a": torch.ones(side, rank), "lokr_w1_b": torch.ones(rank, side), "lokr_w2": torch.ones(4, 3)}
    return tensors | {"alpha": torch.tensor(alpha)} | ({} if dim is None else {"lokr_dim": torch.tensor(dim)})


def read(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None):
    (weights,) = parse_adapter(keyed(MODULE, tensors), metadata).values()
    return weights


def shuffled(metadata: dict[str, str], seed: int) -> dict[str, str]:
    return dict(random.Random(seed).sample(list(metadata.items()), len(metadata)))


@given(RANKS, RANKS, ALPHAS, st.integers())
def test_networks_lokr_trains_whole_factors_at_1(dim, layer, alpha, seed):
    """alpha is the layer's own rank, and ``network_reg_dims`` makes it another than the network's."""
    metadata = kohya("networks.lokr", dim, alpha, network_reg_dims=f".*={layer}", factor="8")
    assert read(lokr(alpha=layer, rank=None), shuffled(metadata, seed)).scaling == 1
    assert read(lokr(alpha=alpha, rank=None), shuffled(metadata, seed)).scaling == 1


@pytest.mark.parametrize("stripped", [("ss_network_module",), ("ss_network_args",), ("ss_network_dim",), ()])
@given(RANKS, st.integers(1, 512))
def test_networks_lokr_with_metadata_in_part(stripped, dim, layer):
    metadata = kohya("networks.lokr", dim, layer, network_reg_dims=f".*={layer}")
    left = {key: value for key, value in metadata.items() if key not in stripped}
    assert read(lokr(alpha=layer, rank=None), left).scaling == 1


@given(RANKS, ALPHAS, st.sampled_from([1, 2, 3]))
def test_networks_lokr_divides_the_networks_alpha_by_the_layers_rank(dim, alpha, layer):
    metadata = kohya("networks.lokr", dim, alpha, network_reg_dims=f".*={layer}")
    weights = read(lokr(alpha=alpha, rank=layer), metadata)
    assert weights.scaling == alpha / layer and weights.notes == ()


def test_two_writers_are_named_where_both_fit():
    """The module and its arguments are stripped: sd-scripts' at 1, AnimaLoraStudio's at alpha / rank."""
    weights = read(lokr(alpha=16, rank=None), kohya(None, 32, 16))
    assert weights.scaling == 1 and "sd-scripts" in weights.notes[0] and "AnimaLoraStudio" in weights.notes[0]
    under_lycoris = read(lokr(alpha=16, rank=None), kohya(None, 32, 16, algo="lokr"))
    assert under_lycoris.scaling == 0.5


@pytest.mark.parametrize("network", ["networks.krona", "networks.cdka", None])
@given(RANKS, ALPHAS)
def test_krona_trains_at_1_whatever_alpha_is(network, dim, alpha):
    metadata = kohya(network, dim, alpha, factor_in="4", factor_out="64", cdka_alpha=alpha)
    assert read(lokr(alpha=alpha, rank=None), metadata).scaling == 1


@given(ALPHAS, st.booleans())
def test_krona_with_a_scale_that_was_not_multiplied_in(alpha, used):
    metadata = kohya("networks.krona", 4, 1, krona_alpha=alpha, use_cdka_scale=str(used).lower())
    weights = read(lokr(alpha=alpha, rank=None), metadata)
    assert weights.scaling == pytest.approx(alpha / math.sqrt(2) if used else 1)  # w1 has two columns
    assert bool(weights.notes) == used


@given(st.integers(1, 4096), ALPHAS, st.booleans())
def test_lokr_dim_holds_the_rank_that_the_shapes_do_not(dim, alpha, with_metadata):
    metadata = kohya("networks.lokr", 77, 3.0) if with_metadata else {}
    weights = read(low_w1(2, alpha, float(dim)), metadata)
    assert weights.scaling == pytest.approx(alpha / dim) and weights.notes == ()
    assert weights.alpha == alpha


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rank_that_half_precision_rounds(dtype):
    tensors = low_w1(2, 4.0) | {"lokr_dim": torch.tensor(100000.0).to(dtype)}
    assert read(tensors, kohya("networks.lokr", 100000, 4.0)).scaling == pytest.approx(4 / 100000)


@pytest.mark.parametrize("network", ["networks.lokr", "musubi_tuner.networks.lokr", None])
def test_without_lokr_dim_the_metadata_have_the_rank(network):
    weights = read(low_w1(2, 4.0), kohya(network, 64, 4.0))
    assert weights.scaling == 4 / 64 and "rank asked for" in weights.notes[0]
    assert read(low_w1(2, 4.0, side=8), kohya(network, 2, 4.0)).scaling == 2, "LyCORIS' and the fork's w1 of rank 2"


@given(st.sampled_from([1, 2, 3]), ALPHAS, st.integers())
def test_rank_and_alpha_in_the_metadata_alone(rank, alpha, seed):
    """SceneWorks saves a PEFT network without alphas and without a configuration."""
    metadata = {
        "format": "pt",
        "networkType": "lokr",
        "rank": str(rank),
        "alpha": f"{alpha:g}",
        "decomposeFactor": "-1",
    }
    adapter = parse_adapter(keyed("blocks.0.to_q", lokr(None, rank)), shuffled(metadata, seed))
    assert [w.scaling for w in adapter.values()] == [alpha / rank]
    assert adapter.notes == [] and adapter.producer == "SceneWorks"
    for stripped in ("rank", "networkType", "decomposeFactor"):
        left = {key: value for key, value in metadata.items() if key != stripped}
        assert [w.scaling for w in parse_adapter(keyed("blocks.0.to_q", lokr(None, rank)), left).values()] == [
            alpha / rank
        ]


@given(st.integers(1, 512), ALPHAS)
def test_rank_and_alpha_in_the_metadata_of_whole_factors(rank, alpha):
    metadata = {"networkType": "lokr", "rank": str(rank), "alpha": f"{alpha:g}"}
    assert read(lokr(None, None), metadata).scaling == pytest.approx(alpha / rank)
    lost = read(lokr(None, None), {"networkType": "lokr", "alpha": f"{alpha:g}"})
    assert lost.scaling == 1 and "assumed" in lost.notes[0]


@pytest.mark.parametrize("rank", [2, None])
def test_a_trainer_that_no_rule_knows_takes_the_plain_rule_and_says_so(rank):
    weights = read(lokr(alpha=8, rank=rank), kohya("networks.mine", 32, 8))
    assert weights.scaling == (4 if rank else 1) and "networks.mine" in weights.notes[0]


@pytest.mark.parametrize("value", ["", "None", "nan", "inf", "-1", "[]", "1e999", "{", "two"])
@pytest.mark.parametrize("key", ["ss_network_dim", "ss_network_alpha", "ss_network_args", "rank", "alpha"])
def test_malformed_metadata_count_as_missing(key, value):
    metadata = kohya("networks.lokr", 16, 16) | {"rank": "2", key: value}
    assert read(lokr(alpha=16, rank=None), metadata).scaling == 1
    assert read(lokr(alpha=4, rank=2), metadata).scaling == 2


def test_every_rule_says_whose_it_is_and_where_it_is_from():
    assert all(rule.writers and rule.source for rule in RULES)
    assert len({rule.scaling for rule in RULES}) == len(RULES)
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8").replace("`", "")
    assert [rule.source for rule in RULES if rule.source not in page] == []
