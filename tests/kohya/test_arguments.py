"""What each argument of a command line means, and how the ones that cannot be done are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokr_core import LoKrValueError
from lokr_core.kohya._arguments import overridden, parse
from lokr_core.peft import LoKrConfig


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"algo": "loha"}, "lycoris.kohya"),
        ({"use_scalar": "True"}, "W2 starts at 0"),
        ({"train_norm": "True"}, "train_norm"),
        ({"dropout": 0.1}, "rank_dropout"),
        ({"neuron_dropout": "0.1"}, "rank_dropout"),
        ({"decompose_both": "False"}, "decompose_both=True"),
        ({"disable_conv_cp": "True"}, "use_tucker"),
        ({"bypass_mode": "True", "rank_dropout": "0.1"}, "leave out bypass_mode or rank_dropout"),
        ({"factr": "8"}, "near: factor"),
        ({"block_dims": "4,4"}, "block_dims"),
        ({"factor": "eight"}, "factor is a number"),
        ({"factor": "0"}, "0"),
        ({"conv_dim": "2.5"}, "conv_dim is a whole number"),
        ({"full_matrix": "yes"}, "full_matrix is true or false"),
        ({"rank_dropout": "1.5"}, "rank_dropout"),
        ({"preset": "attn"}, "attn-mlp"),
        ({"preset": "ia3"}, "another algorithm"),
        ({"exclude_patterns": "[r'(']"}, "malformed pattern"),
        ({"exclude_patterns": ".*norm"}, "list of texts"),
        ({"network_reg_dims": "conv"}, "PATTERN=NUMBER"),
    ],
)
def test_a_refusal_names_the_argument_and_what_to_do(arguments, told):
    with pytest.raises(LoKrValueError) as error:
        parse(8, 4.0, arguments)
    assert told in str(error.value)


@pytest.mark.parametrize("content, told", [("a = [", "cannot be read"), ("unet_target_modules = []", "Unknown keys")])
def test_a_malformed_preset_is_refused_with_its_path(content, told, tmp_path):
    path = tmp_path / "preset.toml"
    path.write_text(content)
    with pytest.raises(LoKrValueError) as error:
        parse(8, 4.0, {"preset": str(path)})
    assert told in str(error.value) and str(path) in str(error.value)


def test_what_has_no_effect_on_lokr_is_taken():
    arguments = {"block_size": "4", "rescaled": "False", "warn_on_unmatched": "True", "verbose": "True"}
    arguments |= {"use_scalar": "False", "bypass_mode": "True", "dropout": None, "train_norm": "False", "algo": "LoKr"}
    assert parse(8, 4.0, arguments) == parse(8, 4.0, {})


def test_a_rank_and_an_alpha_that_are_not_given_are_lycoris():
    assert (parse(None, None, {}).config.r, parse(None, None, {}).config.alpha) == (4, 4.0)


@pytest.mark.parametrize("preset, conv_dim", [("full", 8), ("attn-mlp", 0)])
def test_a_preset_without_convolutions_leaves_their_rank_at_0(preset, conv_dim):
    assert parse(8, 4.0, {"preset": preset}).conv_dim == conv_dim


@given(
    factor=st.integers(1, 64) | st.just(-1),
    dim=st.integers(1, 512),
    alpha=st.floats(-8, 8),
    dropout=st.floats(0, 0.99),
    flags=st.dictionaries(st.sampled_from(["full_matrix", "use_tucker", "rs_lora"]), st.booleans()),
)
def test_numbers_and_flags_arrive_as_they_are(factor, dim, alpha, dropout, flags):
    given_ = {"factor": str(factor), "rank_dropout": str(dropout), "conv_dim": str(dim), "conv_alpha": str(alpha)}
    arguments = parse(dim, alpha, {**given_, **{name: str(value) for name, value in flags.items()}})
    config = arguments.config
    assert (config.r, config.alpha, config.decompose_factor, config.rank_dropout) == (dim, alpha, factor, dropout)
    assert (arguments.conv_dim, arguments.conv_alpha) == (dim, alpha)
    found = {"full_matrix": config.full_matrix, "use_tucker": config.use_effective_conv, "rs_lora": config.rs_lora}
    assert all(found[name] == flags.get(name, False) for name in found)


def test_a_layers_options_win_over_the_networks_where_they_are_given():
    config = LoKrConfig(r=8, alpha=4, full_matrix=True, dora="in")
    changed = overridden(config, {"dim": 2, "alpha": 0, "full_matrix": False, "weight_decompose": True})
    assert (changed.r, changed.alpha, changed.full_matrix, changed.dora) == (2, 4, False, "in")
    assert overridden(config, {"weight_decompose": False}).dora is None
    with pytest.raises(LoKrValueError, match="option of a layer"):
        overridden(config, {"rank_dropout": 0.1})
    with pytest.raises(LoKrValueError, match="LoKr alone"):
        overridden(config, {"algo": "locon"})
