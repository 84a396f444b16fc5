"""A LoKr beside what else a diffusers pipeline may have: LoRAs of its own, fused projections, offloading, casting."""

from __future__ import annotations

import copy

import pytest
import torch

import lokr_core
from lokr_core import LoKrError, LoKrValueError

diffusers = pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")
pytest.importorskip("peft", reason="diffusers loads LoRAs with PEFT")

from lokr_core.models import runs_fused  # noqa: E402
from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.tiny import PIPELINES, build, difference, outputs  # noqa: E402

QKV = ("SD1.5", "SD3", "Flux.1", "Qwen-Image", "Wan 2.2", "Chroma", "PixArt")


def lora(pipe, part="transformer", seed=5):
    """A LoRA in diffusers' names for some Linears of a part, and its changes."""
    torch.manual_seed(seed)
    found, changes = {}, {}
    for name, module in getattr(pipe, part).named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(("to_q", "to_v", "to_qkv_mlp_proj", "linear_2")):
            a, b = torch.randn(4, module.in_features) * 0.2, torch.randn(module.out_features, 4) * 0.2
            found |= {f"{part}.{name}.lora_A.weight": a, f"{part}.{name}.lora_B.weight": b}
            changes[name] = b @ a
    return found, {part: changes}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pipe, file = build("Flux.1"), tmp_path_factory.mktemp("files") / "a.safetensors"
    return pipe, file, lokr_files.write("Flux.1", "authors", pipe, file)


@pytest.fixture
def pipe(made):
    return copy.deepcopy(made[0])


def reference(made, *changes):
    pipe = copy.deepcopy(made[0])
    for each in changes:
        lokr_files.apply(pipe, each)
    return outputs("Flux.1", pipe)


@pytest.mark.parametrize("ours", ["live", "fused"])
@pytest.mark.parametrize("theirs", ["live", "fused"])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_lora_of_diffusers_own_beside_it(first, ours, theirs, pipe, made):
    tensors, changes = lora(pipe)

    def load_ours():
        adapters = lokr_core.load_lokr_weights(pipe, made[1])
        assert adapters.reports["default_0"].complete
        if ours == "fused":
            adapters.fuse()
        return adapters

    def load_theirs():
        pipe.load_lora_weights(tensors, adapter_name="lora")
        if theirs == "fused":
            pipe.fuse_lora()

    if first == "theirs":
        load_theirs()
    adapters = load_ours()
    if first == "ours":
        load_theirs()
    both = reference(made, made[2], changes)
    assert difference(outputs("Flux.1", pipe), both) <= 1e-5
    if first == "ours" and ours == theirs == "fused":
        with pytest.raises(LoKrError, match="Somebody else has changed"):
            adapters.delete_adapters("default_0")
        assert difference(outputs("Flux.1", pipe), both) <= 1e-5
        pipe.unfuse_lora()
    adapters.delete_adapters("default_0")
    assert difference(outputs("Flux.1", pipe), reference(made, changes)) <= 1e-5
    if theirs == "fused" and not (first == "ours" and ours == "fused"):
        pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert difference(outputs("Flux.1", pipe), reference(made)) <= 1e-5


def test_the_base_comes_back_bit_for_bit_with_a_lora_in_force(pipe, made):
    pipe.load_lora_weights(lora(pipe)[0])
    pipe.fuse_lora()
    before = outputs("Flux.1", pipe)
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    adapters.fuse()
    adapters.delete_adapters("default_0")
    assert difference(outputs("Flux.1", pipe), before) == 0


@pytest.mark.parametrize("name", ["Flux.2 Klein", "Z-Image"])
def test_a_lokr_that_diffusers_loaded_itself_beside_it(name, tmp_path):
    pipe = build(name)
    base, both = outputs(name, pipe), copy.deepcopy(pipe)
    lokr_files.write(name, "authors", pipe, tmp_path / "theirs.safetensors", seed=1)
    ours = lokr_files.write(name, "diffusers", pipe, tmp_path / "ours.safetensors")
    pipe.load_lora_weights(str(tmp_path / "theirs.safetensors"), adapter_name="theirs")
    layers = {path: m for path, m in pipe.transformer.named_modules() if hasattr(m, "get_delta_weight")}
    assert layers
    # diffusers refactorises what it splits: what it makes of the file counts.
    theirs = {"transformer": {path: layer.get_delta_weight("theirs") for path, layer in layers.items()}}
    lokr_files.apply(both, ours)
    if runs_fused(pipe.transformer.transformer_blocks[0].attn if name == "Flux.2 Klein" else pipe.transformer):
        both.transformer.fuse_qkv_projections()  # diffusers does so to load the authors' names
    lokr_files.apply(both, theirs)
    adapters = lokr_core.load_lokr_weights(pipe, tmp_path / "ours.safetensors")
    assert adapters.reports["default_0"].complete
    assert difference(outputs(name, pipe), outputs(name, both)) <= 1e-5
    adapters.fuse()
    assert difference(outputs(name, pipe), outputs(name, both)) <= 1e-5
    adapters.delete_adapters("default_0")
    pipe.unload_lora_weights()
    assert difference(outputs(name, pipe), base) == 0


def fuse_qkv(pipe, name, undo=False):
    for part in PIPELINES[name].denoisers:
        model = getattr(pipe, part)
        getattr(model, "unfuse_qkv_projections" if undo else "fuse_qkv_projections")()


@pytest.mark.parametrize("naming", ["diffusers", "authors"])
@pytest.mark.parametrize("name", QKV)
def test_fused_projections_take_the_adapter(name, naming, tmp_path):
    pipe = build(name)
    changes = lokr_files.write(name, naming, pipe, tmp_path / "a.safetensors")
    reference = copy.deepcopy(pipe)
    lokr_files.apply(reference, changes)
    expected, base = outputs(name, reference), outputs(name, pipe)
    fuse_qkv(pipe, name)
    fused_base = outputs(name, pipe)
    assert difference(fused_base, base) <= 1e-5
    adapters = lokr_core.load_lokr_weights(pipe, tmp_path / "a.safetensors")
    assert adapters.reports["default_0"].complete, adapters.reports["default_0"].text()
    for way in (lambda: None, adapters.fuse, adapters.unfuse):
        way()
        assert difference(outputs(name, pipe), expected) <= 1e-5
    fuse_qkv(pipe, name, undo=True)  # live adapters find the layers that run now
    assert difference(outputs(name, pipe), expected) <= 1e-5
    fuse_qkv(pipe, name)
    assert difference(outputs(name, pipe), expected) <= 1e-5
    adapters.delete_adapters("default_0")
    assert difference(outputs(name, pipe), fused_base) == 0


def test_projections_fused_after_the_adapter_was_are_refused(pipe, made):
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    adapters.fuse()
    fuse_qkv(pipe, "Flux.1")
    with pytest.raises(LoKrValueError, match="fuse_qkv_projections"):
        outputs("Flux.1", pipe)
    fuse_qkv(pipe, "Flux.1", undo=True)
    assert difference(outputs("Flux.1", pipe), reference(made, made[2])) <= 1e-5


@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
@pytest.mark.parametrize("first", ["offloading", "adapter"])
def test_group_offloading(first, level, pipe, made):
    def offload():
        more = {"num_blocks_per_group": 1} if level == "block_level" else {}
        pipe.transformer.enable_group_offload(torch.device("cpu"), offload_type=level, **more)

    if first == "offloading":
        offload()
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    if first == "adapter":
        offload()
    expected = reference(made, made[2])
    assert difference(outputs("Flux.1", pipe), expected) <= 1e-5
    adapters.fuse()
    assert difference(outputs("Flux.1", pipe), expected) <= 1e-5
    adapters.delete_adapters("default_0")
    assert difference(outputs("Flux.1", pipe), reference(made)) == 0


def test_weights_offloaded_to_the_disk_are_live_only(pipe, made, tmp_path):
    pipe.transformer.enable_group_offload(
        torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path / "offloaded")
    )
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    expected = reference(made, made[2])
    assert difference(outputs("Flux.1", pipe), expected) <= 1e-5
    with pytest.raises(LoKrValueError, match="restored from a copy"):
        adapters.fuse()
    assert difference(outputs("Flux.1", pipe), expected) <= 1e-5


@pytest.mark.parametrize("first", ["offloading", "adapter"])
def test_weights_that_accelerate_offloads_are_live_only(first, pipe, made):
    """What enable_sequential_cpu_offload does, with the CPU as the device: the weights are on meta between forwards."""
    accelerate = pytest.importorskip("accelerate", reason="NO ACCELERATE HERE: pip install accelerate")
    if first == "offloading":
        accelerate.cpu_offload(pipe.transformer, torch.device("cpu"))
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    if first == "adapter":
        accelerate.cpu_offload(pipe.transformer, torch.device("cpu"))
    expected = reference(made, made[2])
    assert adapters.reports["default_0"].complete
    assert difference(outputs("Flux.1", pipe), expected) <= 1e-5
    with pytest.raises(LoKrValueError, match="meta device"):
        adapters.fuse()
    assert difference(outputs("Flux.1", pipe), expected) <= 1e-5
    adapters.delete_adapters("default_0")
    assert difference(outputs("Flux.1", pipe), reference(made)) == 0


def test_what_was_fused_before_it_was_offloaded_is_not_lost(pipe, made):
    accelerate = pytest.importorskip("accelerate", reason="NO ACCELERATE HERE: pip install accelerate")
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    adapters.fuse()
    accelerate.cpu_offload(pipe.transformer, torch.device("cpu"))
    expected = reference(made, made[2])
    for call in (adapters.unfuse, lambda: adapters.set_adapters("default_0", 0), adapters.delete_adapters):
        with pytest.raises(LoKrError, match="Somebody else has changed"):
            call(*(["default_0"] if call == adapters.delete_adapters else []))
        assert difference(outputs("Flux.1", pipe), expected) <= 1e-5
    accelerate.hooks.remove_hook_from_module(pipe.transformer, recurse=True)
    adapters.delete_adapters("default_0")
    assert difference(outputs("Flux.1", pipe), reference(made)) == 0


def test_whole_models_that_accelerate_moves_are_fused(pipe, made):
    """What enable_model_cpu_offload does, with the CPU as the device."""
    accelerate = pytest.importorskip("accelerate", reason="NO ACCELERATE HERE: pip install accelerate")
    pipe.transformer, hook = accelerate.cpu_offload_with_hook(pipe.transformer, torch.device("cpu"))
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    adapters.fuse()
    hook.offload()
    assert difference(outputs("Flux.1", pipe), reference(made, made[2])) <= 1e-5
    adapters.delete_adapters("default_0")
    assert difference(outputs("Flux.1", pipe), reference(made)) == 0


def test_weights_on_the_meta_device_are_not_fused(pipe, made):
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    pipe.transformer.to("meta")
    with pytest.raises(LoKrValueError, match="meta device"):
        adapters.fuse()
    assert adapters.get_active_adapters() == ["default_0"]


@pytest.mark.parametrize("first", ["casting", "adapter"])
def test_layerwise_casting(first, pipe, made):
    """diffusers stores the base in fp8: the reference is the rounded base with the whole update."""

    def cast(model):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)

    stored, rounded = copy.deepcopy(pipe.transformer), copy.deepcopy(pipe)
    cast(stored)
    rounded.transformer.load_state_dict({name: weight.float() for name, weight in stored.state_dict().items()})
    base = outputs("Flux.1", rounded)
    lokr_files.apply(rounded, made[2])
    expected = outputs("Flux.1", rounded)

    if first == "casting":
        cast(pipe.transformer)
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    if first == "adapter":
        cast(pipe.transformer)
    assert difference(outputs("Flux.1", pipe), expected) <= 1e-5
    adapters.fuse()  # the weights are rounded to fp8 once more
    assert 1e-4 < difference(outputs("Flux.1", pipe), expected) < 0.2
    adapters.delete_adapters("default_0")
    assert difference(outputs("Flux.1", pipe), base) == 0


def test_compiled_blocks_and_wrapped_models_take_the_adapter(pipe, made):
    pipe.transformer.transformer_blocks[0].compile(backend="eager")
    pipe.transformer = torch.compile(pipe.transformer, backend="eager", disable=True)
    adapters = lokr_core.load_lokr_weights(pipe, made[1])
    assert adapters.reports["default_0"].complete
    assert difference(outputs("Flux.1", pipe), reference(made, made[2])) <= 1e-5
    adapters.fuse()
    assert difference(outputs("Flux.1", pipe), reference(made, made[2])) <= 1e-5
    adapters.set_adapters("default_0", 0)
    assert difference(outputs("Flux.1", pipe), reference(made)) <= 1e-5
