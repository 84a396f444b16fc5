"""diffusers' words on a pipeline's adapters: load, set, fuse, unfuse, delete, with weights per part and per block."""

from __future__ import annotations

import copy

import pytest
import torch

import lokr_core
from lokr_core import LoKrError, LoKrMatchError, LoKrValueError
from lokr_core.pipelines._weights import factor_of

diffusers = pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")

from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.tiny import build, difference, outputs  # noqa: E402

NAME = "Flux.1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(pipeline, a folder with files "a" and "b", their changes)."""
    pipe, folder = build(NAME), tmp_path_factory.mktemp("files")
    naming = {"a": "diffusers", "b": "kohya"}
    changes = {
        name: lokr_files.write(NAME, naming[name], pipe, folder / f"{name}.safetensors", seed)
        for seed, name in enumerate(naming)
    }
    return pipe, folder, changes


@pytest.fixture
def pipe(made):
    return copy.deepcopy(made[0])


def load(pipe, made, *names):
    for name in names:
        adapters = lokr_core.load_lokr_weights(pipe, made[1] / f"{name}.safetensors", adapter_name=name)
    return adapters


def expected(made, **strengths):
    pipe = copy.deepcopy(made[0])
    for name, strength in strengths.items():
        lokr_files.apply(pipe, made[2][name], strength)
    return outputs(NAME, pipe)


def test_one_handle_and_one_report_for_all_parts(pipe, made):
    adapter = lokr_core.load_adapter(made[1] / "a.safetensors")
    for engine in (lokr_core.attach, lokr_core.merge_adapter):
        with engine(pipe, adapter, 0.5) as handle:
            assert handle.report.headline == f"{len(adapter)} of {len(adapter)} modules applied"
            assert {place.partition(".")[0] for place in handle.places} == set(made[2]["a"])
            assert difference(outputs(NAME, pipe), expected(made, a=0.5)) <= 1e-5
        assert difference(outputs(NAME, pipe), expected(made)) == 0


def test_the_last_one_loaded_is_in_force_as_in_diffusers(pipe, made):
    adapters = load(pipe, made, "a", "b")
    assert adapters.get_active_adapters() == ["b"]
    assert adapters.get_list_adapters() == dict.fromkeys(("text_encoder", "text_encoder_2", "transformer"), ["a", "b"])
    assert difference(outputs(NAME, pipe), expected(made, b=1)) <= 1e-5
    adapters.set_adapters(["b", "a"], [0.5, -0.3])
    assert adapters.get_active_adapters() == ["a", "b"]
    assert difference(outputs(NAME, pipe), expected(made, a=-0.3, b=0.5)) <= 1e-5


def test_a_fused_adapter_takes_new_weights_too(pipe, made):
    adapters = load(pipe, made, "a", "b")
    adapters.set_adapters(["a", "b"], 0.5)
    adapters.fuse("a", lora_scale=0.8)
    assert difference(outputs(NAME, pipe), expected(made, a=0.4, b=0.5)) <= 1e-5
    adapters.set_adapters("a")
    assert difference(outputs(NAME, pipe), expected(made, a=0.8)) <= 1e-5
    adapters.unfuse()
    assert difference(outputs(NAME, pipe), expected(made, a=1)) <= 1e-5


def test_weights_per_part(pipe, made):
    adapters = load(pipe, made, "a")
    adapters.set_adapters("a", {"transformer": 0, "text_encoder": 0.5})
    found, base = outputs(NAME, pipe), expected(made)
    assert torch.equal(found["transformer"], base["transformer"])
    for part, strength in {"text_encoder": 0.5, "text_encoder_2": 1}.items():
        assert difference({part: found[part]}, {part: expected(made, a=strength)[part]}) <= 1e-5


@pytest.mark.parametrize(
    "weights",
    [
        {"down": 0.5},
        {"mid": 0.2, "up": 0.7},
        {"down": {"block_1": 0.3}, "mid": [0.4]},
        {"down": {"block_0": [0.1, 0.2], "block_2": 0}, "up": {"block_1": [0.4, 0.8, 1.2], "block_3": [0.9]}},
    ],
)
def test_weights_per_block_are_diffusers_own(weights):
    from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales

    unet = build("SD1.5").unet
    theirs = _maybe_expand_lora_scales(unet, [weights])[0]
    ours = factor_of({"unet": weights}, {"unet": unet})
    paths = [name for name, module in unet.named_modules() if name.count(".") > 2]
    for path in paths:
        words = path.split(".")  # as diffusers' set_weights_and_activate_adapters reads them
        named = next((weight for name, weight in theirs.items() if name in path), None)
        key = f"{words[0]}.{words[1]}.attentions.{words[3]}"
        assert ours(f"unet.{path}") == (theirs.get(key, 1.0) if named is None else named), path


@pytest.mark.parametrize(
    "weights",
    [
        {"vae": 1},
        {"transformer": {"no_such_blocks": 1}},
        {"transformer": float("nan")},
        float("inf"),
        [1, 2, 3],
    ],
)
def test_wrong_weights_are_refused_and_the_former_stay(weights, pipe, made):
    adapters = load(pipe, made, "a")
    adapters.set_adapters("a", 0.5)
    with pytest.raises(LoKrValueError):
        adapters.set_adapters("a", weights)
    assert difference(outputs(NAME, pipe), expected(made, a=0.5)) <= 1e-5


@pytest.mark.parametrize("weights", [{"down": {"block_9": 1}}, {"down": {"block_0": [1, 2, 3]}}, {"left": 1}])
def test_wrong_blocks_of_a_unet_are_refused(weights):
    with pytest.raises(LoKrValueError):
        factor_of({"unet": weights}, {"unet": build("SD1.5").unet})


def test_unknown_and_duplicate_names_are_refused(pipe, made):
    adapters = load(pipe, made, "a")
    for call in (adapters.set_adapters, adapters.delete_adapters, adapters.fuse):
        with pytest.raises(LoKrValueError, match="Unknown adapters"):
            call("b")
    with pytest.raises(LoKrValueError, match="has an adapter of that name"):
        load(pipe, made, "a")
    assert adapters.get_active_adapters() == ["a"]


def test_a_file_for_another_model_is_refused(made, tmp_path):
    lokr_files.write(NAME, "authors", made[0], tmp_path / "a.safetensors")
    with pytest.raises(LoKrMatchError, match="None of the"):
        lokr_core.load_lokr_weights(build("PixArt"), tmp_path / "a.safetensors")


def test_a_folder_is_read_as_diffusers_does(pipe, made, tmp_path):
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes((made[1] / "a.safetensors").read_bytes())
    assert lokr_core.load_lokr_weights(pipe, tmp_path).get_active_adapters() == ["default_0"]
    assert lokr_core.load_lokr_weights(pipe, made[1], weight_name="b.safetensors").get_active_adapters() == [
        "default_1"
    ]


def test_a_fused_pipeline_is_saved_with_the_adapter(pipe, made, tmp_path):
    load(pipe, made, "a").fuse()
    before = outputs(NAME, pipe)
    pipe.transformer.save_pretrained(tmp_path / "transformer")
    pipe.text_encoder.save_pretrained(tmp_path / "text_encoder")
    again = build(NAME)
    again.transformer = type(again.transformer).from_pretrained(tmp_path / "transformer")
    again.text_encoder = type(again.text_encoder).from_pretrained(tmp_path / "text_encoder")
    again.text_encoder_2 = pipe.text_encoder_2
    assert difference(outputs(NAME, again), before) == 0


def test_an_adapter_of_one_expert_goes_to_that_one(tmp_path):
    pipe = build("Wan 2.2")
    changes = lokr_files.write("Wan 2.2", "kohya", pipe, tmp_path / "style_low_noise.safetensors")
    base = outputs("Wan 2.2", pipe)
    adapter = lokr_core.load_adapter(tmp_path / "style_low_noise.safetensors")
    reference = copy.deepcopy(pipe)
    lokr_files.apply(reference, {"transformer": changes["transformer"]})
    for expert, part in (("high", "transformer"), ("low", "transformer_2"), ("", "transformer_2")):
        with lokr_core.attach(pipe, adapter, expert=expert) as handle:
            found = outputs("Wan 2.2", pipe)
            changed = {name for name in ("transformer", "transformer_2") if not torch.equal(found[name], base[name])}
            assert changed == {part}
            assert any(part in note for note in handle.report.notes) == (not expert)


def test_a_changed_weight_of_another_is_not_lost_silently(pipe, made):
    adapters = load(pipe, made, "a")
    adapters.fuse()
    for parameter in pipe.transformer.parameters():
        parameter.data += 0.5
    with pytest.raises(LoKrError, match="Somebody else has changed"):
        adapters.unfuse()
    for parameter in pipe.transformer.parameters():
        parameter.data -= 0.5
