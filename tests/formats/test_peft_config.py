"""PEFT's configuration: found, believed where it fits the tensors, and what happens where it does not."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lokr_core import LoKrFileError, load_adapter
from lokr_core.formats import parse_adapter
from tests.formats.lokr_tensors import file_of, keyed, lokr

peft_other = pytest.importorskip("peft.utils.other", reason="PEFT's own rule is the expected value of these tests")

A, B, C = (f"base_model.model.{name}" for name in ("blocks.0.attn.to_q", "blocks.10.attn.to_q", "blocks.0.mlp"))


def config(**entries) -> str:
    return json.dumps({"peft_type": "LOKR", "r": 2, "alpha": 6, **entries})


def scalings(tensors: dict, text: str | None) -> dict[str, float]:
    return {module: weights.scaling for module, weights in parse_adapter(tensors, None, text).items()}


def test_alpha_over_r_also_where_both_factors_are_whole():
    tensors = {**file_of(A, alpha=None), **keyed(C, lokr(alpha=None, rank=None))}
    assert scalings(tensors, config()) == {A: 3, C: 3}


@pytest.mark.parametrize("r", [64.0, 1e6, 1_000_000_000, 1e9, 9999220736.0, 1e10, 10**12, 1e30])
@pytest.mark.parametrize("ratio", [1, 0.5, 2])
def test_a_rank_may_be_huge_and_a_float(r, ratio):
    """diffusion-pipe forces alpha = r, and users ask for a huge r to have whole factors; JSON may hold floats."""
    tensors = {**keyed(A, lokr(None, None)), **keyed(C, lokr(None, None))}
    assert scalings(tensors, config(r=r, alpha=r * ratio)) == {A: ratio, C: ratio}
    by_pattern = config(r=2, alpha=6, rank_pattern={"mlp": r}, alpha_pattern={"mlp": r * ratio})
    assert scalings(tensors, by_pattern)[C] == ratio


PATTERNS = [
    "to_q", "attn.to_q", "0.attn.to_q", "blocks.0.attn.to_q", "^blocks.0.attn.to_q", "^attn.to_q", r"blocks\.\d+\.mlp",
    ".*mlp", "mlp$", "q", "blocks.1", "o_q", "(attn|mlp).to_q", "blocks.0", "",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_peft_matches_them(pattern):
    found = scalings(file_of(A, B, C, alpha=None), config(alpha_pattern={pattern: 10}))
    for module in (A, B, C):
        name = module.removeprefix("base_model.model.")
        matches = peft_other.get_pattern_key([pattern], name) == pattern and pattern != name or pattern == name
        assert found[module] == (5 if matches else 3), (module, pattern)


def test_the_first_pattern_that_matches_counts():
    """One with the tensors' rank before others: PEFT saves patterns sorted, not in the order they were trained in."""
    tensors = {**keyed(A, lokr(None, 1)), **keyed(B, lokr(None, 3)), **keyed(C, lokr(None, 2))}
    text = config(rank_pattern={"to_q": 3, "0.attn.to_q": 9, "blocks.0.attn.to_q": 1})
    assert scalings(tensors, text) == {A: 6, B: 2, C: 3}


def test_alphas_that_cannot_be_told_apart_are_said():
    text = config(alpha_pattern={"attn.to_q": 4, "to_q": 8})
    adapter = parse_adapter(file_of(A, C, alpha=None), None, text)
    assert adapter[A].scaling == 2 and "order is lost" in adapter[A].notes[0] and adapter[C].notes == ()
    both = config(alpha_pattern={"attn.to_q": 4, "to_q": 8}, rank_pattern={"to_q": 2})
    assert parse_adapter(file_of(A, alpha=None), None, both)[A].scaling == 4


def test_without_a_configuration_it_is_said_what_is_assumed():
    adapter = parse_adapter(file_of(A, B, alpha=None))
    assert [w.scaling for w in adapter.values()] == [1, 1]
    assert all("scaling 1 assumed" in weights.notes[0] for weights in adapter.values())
    assert "no adapter_config.json beside the file: scaling 1" in adapter.notes[0] and "2 modules" in adapter.notes[0]


def test_an_alpha_in_the_file_counts_before_any_configuration():
    assert scalings(file_of(A, alpha=1), config()) == {A: 0.5}


@pytest.mark.parametrize("keys", ["plain", "named", "named twice"])
def test_the_name_of_an_adapter_inside_the_keys(keys):
    tensors = file_of(A, alpha=None)
    if keys != "plain":
        tensors = {f"{key}.my style": t for key, t in tensors.items()} | (tensors if keys == "named twice" else {})
    adapter = parse_adapter(tensors, None, config())
    assert list(adapter) == [A] and adapter[A].scaling == 3 and adapter.other == {}


def test_two_adapters_in_one_file():
    tensors = {f"{key}.{name}": t for key, t in file_of(A, alpha=None).items() for name in ("default", "other")}
    with pytest.raises(LoKrFileError, match="several adapters") as caught:
        parse_adapter(tensors, None, config())
    assert caught.value.found == "default, other" and "selected_adapters" in caught.value.hint


METADATA = {
    "transformer.r": 2, "transformer.alpha": 8, "transformer.alpha_pattern": {"^blocks.0.mlp": 2},
    "text_encoder_2.r": 2, "text_encoder_2.alpha": 1, "text_encoder_2.peft_type": "LOKR", "unet.peft_type": "LORA",
    "unet.lora_alpha": 64, "unet.r": 4,
}  # fmt: skip


def test_configurations_in_the_metadata_are_for_their_parts():
    modules = ("transformer.blocks.0.q", "transformer.blocks.0.mlp", "text_encoder_2.layer.q", "unet.conv_in")
    adapter = parse_adapter(file_of(*modules, alpha=None), {"lora_adapter_metadata": json.dumps(METADATA)})
    assert [w.scaling for w in adapter.values()] == [4, 1, 0.5, 1]
    assert "1 modules have no alpha" in adapter.notes[0]


def test_the_configuration_with_the_longer_prefix_counts():
    metadata = {"lora_adapter_metadata": json.dumps({"r": 2, "alpha": 1, **METADATA, "transformer.base.alpha": 20})}
    modules = ("transformer.blocks.0.q", "other.q")
    assert [w.scaling for w in parse_adapter(file_of(*modules, alpha=None), metadata).values()] == [4, 0.5]


def test_the_files_own_configuration_counts_before_one_beside_it():
    metadata = {"lora_adapter_metadata": json.dumps({"r": 2, "alpha": 10})}
    adapter = parse_adapter(file_of(A, alpha=None), metadata, config())
    assert adapter[A].scaling == 5


@pytest.mark.parametrize("given", ["folder", "file", "other name"])
def test_the_configuration_beside_the_file(tmp_path, given):
    path = tmp_path / ("mine.safetensors" if given == "other name" else "adapter_model.safetensors")
    save_file(file_of(A, C, alpha=None), str(path))
    (tmp_path / "adapter_config.json").write_text(config(alpha_pattern={"mlp": 4}))
    adapter = load_adapter(tmp_path if given == "folder" else path)
    assert {m: w.scaling for m, w in adapter.items()} == {A: 3, C: 2} and adapter.producer == "PEFT"


@pytest.mark.parametrize("content", [b"{ this is no JSON", b"\xff\xfe", config(r=77).encode()])
def test_a_configuration_beside_a_file_that_needs_none(tmp_path, content):
    """In a folder of many adapters it is another's, and may be anything."""
    save_file(file_of("lora_unet_a_b", alpha=1), str(tmp_path / "kohya.safetensors"))
    (tmp_path / "adapter_config.json").write_bytes(content)
    assert [w.scaling for w in load_adapter(tmp_path / "kohya.safetensors").values()] == [0.5]


def test_alphas_of_other_algorithms_do_not_hide_the_need_for_it(tmp_path):
    tensors = {**file_of(A, alpha=None), "x.lora_up.weight": torch.ones(2, 2), "x.alpha": torch.ones(())}
    save_file(tensors, str(tmp_path / "a.safetensors"))
    (tmp_path / "adapter_config.json").write_text(config())
    assert load_adapter(tmp_path / "a.safetensors")[A].scaling == 3


def test_a_configuration_of_another_method():
    adapter = parse_adapter(file_of(A, alpha=None), None, config(peft_type="LORA", lora_alpha=64))
    assert adapter[A].scaling == 1 and "another method" in adapter.notes[0]


@pytest.mark.parametrize(
    "text,said",
    [
        ("{ no JSON", "cannot be read: "),
        ("", "cannot be read: "),
        ("[1, 2]", "it is list, not an object"),
        ("[" * 100_000, "cannot be read: "),
        (config(r="two"), "r must be a whole number"),
        (config(r=0), "r must be a whole number"),
        (config(r=True), "r must be a whole number"),
        (config(alpha=None), "alpha must be a finite number"),
        (config(alpha=float("nan")), "alpha must be a finite number"),
        (config(rank_pattern={"a": -1}), "rank_pattern['a'] must be a whole number"),
        (config(rank_pattern=["a"]), "rank_pattern must map module names to numbers"),
        (config(alpha_pattern={"(": 1}), "'(' is not a regular expression"),
        (config(target_modules="(unclosed"), "is not a regular expression"),
    ],
)
@pytest.mark.parametrize("where", ["beside", "metadata"])
def test_a_configuration_that_cannot_be_used(tmp_path, text, said, where):
    path = tmp_path / "adapter_model.safetensors"
    metadata = {"lora_adapter_metadata": text} if where == "metadata" else None
    save_file(file_of(A, alpha=None), str(path), metadata)
    if where == "beside":
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(LoKrFileError) as caught:
        load_adapter(path)
    shown = str(caught.value)
    assert said in shown and f"file: {path}" in shown and "expected: " in shown and "found: " in shown
    assert "take it away: then alpha = r is assumed" in shown
    assert ("adapter_config.json" if where == "beside" else "lora_adapter_metadata") in shown


def test_a_configuration_that_is_no_text(tmp_path):
    save_file(file_of(A, alpha=None), str(tmp_path / "adapter_model.safetensors"))
    (tmp_path / "adapter_config.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(LoKrFileError, match="cannot be read"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("part", ["w1", "w2"])
def test_ranks_that_contradict_the_configuration(part):
    tensors = lokr(alpha=None, rank=None)
    whole = tensors.pop(f"lokr_{part}")
    tensors |= {f"lokr_{part}_a": torch.ones(len(whole), 3), f"lokr_{part}_b": torch.ones(3, whole.shape[1])}
    with pytest.raises(LoKrFileError, match="contradicts the tensors") as caught:
        parse_adapter(keyed(A, tensors), None, config(r=4))
    error = caught.value
    assert (error.module, error.expected, error.found) == (A, "r = 4 (from adapter_config.json)", "rank 3")
    assert part in error.problem and "beside it" in error.hint


def test_a_whole_factor_that_peft_would_have_stored_low_rank():
    adapter = parse_adapter(keyed(A, lokr(alpha=None, rank=None)), None, config(r=1))
    assert adapter[A].scaling == 6 and "is it this adapter's?" in adapter[A].notes[0]


@pytest.mark.parametrize(
    "targets,strangers",
    [
        (["to_q", "mlp"], 0), ("all-linear", 0), (None, 0), ([], 0), (".*", 0), (["blocks.0.mlp", "attn.to_q"], 0),
        (["mlp"], 2), (["o_q", "mlp"], 2), (r"blocks\.0\..*", 1), (["to_k"], 3), (r".*\.to_q", 1),
    ],
)  # fmt: skip
def test_modules_that_target_modules_does_not_name_are_told_of(targets, strangers):
    adapter = parse_adapter(file_of(A, B, C, alpha=None), None, config(target_modules=targets))
    assert len(adapter) == 3
    assert [note.split()[0] for note in adapter.notes] == ([str(strangers)] if strangers else [])
    assert all("target_modules" in note for note in adapter.notes)
