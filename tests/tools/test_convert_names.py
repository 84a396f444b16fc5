"""``convert``: every architecture's names there and back, by value; what is cut and cannot be told apart is told."""

from __future__ import annotations

from functools import lru_cache
from itertools import cycle

import pytest
import torch

from lokr_core import Adapter, Factor, LoKrValueError, LoKrWeights, Target
from lokr_core.conversion import Keep
from lokr_core.formats import parse_adapter
from lokr_core.saving import SPELLINGS, named, save_named
from lokr_core.tools import Conversion, Converted, convert, read_updates, updates_of
from tests.interchange.adapters import LOW, WHOLE, assert_same, deltas, lokr
from tests.matching.cells import FURTHER, TABLE, recorded
from tests.names.coverage import MARKS

ARCHITECTURES = [*TABLE.values(), *FURTHER]
NAMES = ["kohya", "comfyui", "diffusers", "peft", "original"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def file_of(modules: dict[str, LoKrWeights], prefix: str = "transformer.") -> Adapter:
    """An adapter as it is read from a file."""
    tensors = {}
    for name, weights in modules.items():
        tensors |= {f"{prefix}{name}.{key}": tensor for key, tensor in weights.tensors.items()}
        tensors[f"{prefix}{name}.alpha"] = torch.tensor(float(weights.rank or 1))
    return parse_adapter(tensors)


@lru_cache(maxsize=2)  # cases of an architecture follow one another
def trained(
    architecture: str, form: str = WHOLE
) -> tuple[Adapter, dict[str, dict[str, tuple]], dict[str, dict[str, torch.Tensor]]]:
    """(an adapter in diffusers' names, {side: weights' shapes}, {side: what it changes there})."""
    modules, weights = recorded(architecture)
    modules = {name: shape for name, shape in modules.items() if len(shape) > 1}
    shapes = {
        "diffusers": {f"{name}.weight": shape for name, shape in modules.items()} | MARKS.get(architecture, {}),
        "comfyui": {f"diffusion_model.{name}": shape for name, shape in weights.items()},
    }
    adapter = file_of({name: lokr(shape, form, 1, factor=2, scaling=1.0) for name, shape in modules.items()})
    return adapter, shapes, {side: deltas(adapter, weights) for side, weights in shapes.items()}


def written(found: Converted, path) -> Adapter:
    save_named(named(found.modules), path, found.format, torch.float32, found.metadata, found.other)
    return read_updates(path).adapter


@pytest.mark.every_value
@pytest.mark.parametrize("names,side", list(zip(NAMES, cycle(["diffusers", "comfyui"]), strict=False)))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_lora_in_any_names_does_what_the_lokr_does(tmp_path, architecture, names, side):
    # Of a low rank, whose SVD is quick: the maths of other factors does not depend on names (test_maths).
    adapter, shapes, expected = trained(architecture, LOW)
    conversion = Conversion("lora", names, Keep(error=0))
    found = convert(updates_of(adapter), conversion, Target(shapes[side]))
    assert not found.left_out, found.left_out
    path = tmp_path if names == "peft" else tmp_path / "a.safetensors"
    again = written(found, path / "adapter_model.safetensors" if names == "peft" else path)
    for other in shapes:
        assert_same(deltas(again, shapes[other]), expected[other], 1e-5)
    assert found.energy == pytest.approx(1, abs=1e-9)


@pytest.mark.every_value
@pytest.mark.parametrize("names", ["kohya", "comfyui", "original"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_lokr_in_other_names_and_back_has_the_same_factors(architecture, names):
    """What is fused in the other names is a full difference there: it is not the same factors, and it is told."""
    adapter, shapes, expected = trained(architecture)
    target = Target(shapes["comfyui"])
    there = convert(updates_of(adapter), Conversion("lokr", names, inexact="full"), target)
    moved = Adapter({m.name.full: m.weights for m in there.modules}, {m.name.full: m.name for m in there.modules})
    assert_same(deltas(moved, shapes["comfyui"]), expected["comfyui"], 1e-5)
    back = convert(updates_of(moved), Conversion("lokr", "diffusers", inexact="full"), target)
    sources = {made.name.full: made for made in there.modules}
    for made in back.modules:
        before = [(adapter[middle.sources[0]], middle) for middle in map(sources.get, made.sources)]
        if any(middle.note or old.shape[0] != made.weights.shape[0] for old, middle in before):
            continue
        for old, _ in before:
            assert torch.equal(made.weights.w1.whole, old.w1.whole) and torch.equal(made.weights.w2.whole, old.w2.whole)
    assert sum(not made.note for made in there.modules) > len(adapter) / 3


FUSED = {"double_blocks.0.img_attn.qkv.weight": (96, 32), "double_blocks.0.img_attn.proj.weight": (32, 32)}
FLUX = {f"diffusion_model.{n}": s for n, s in recorded("flux")[1].items()}
QKV = "diffusion_model.double_blocks.0.img_attn.qkv.weight"


def qkv_file(l: int) -> Adapter:
    out, columns = FLUX[QKV]
    weights = LoKrWeights(Factor(torch.randn(l, 4)), Factor(torch.randn(out // l, columns // 4)))
    return file_of({QKV.removeprefix("diffusion_model.").removesuffix(".weight"): weights}, "diffusion_model.")


def test_a_cut_between_blocks_of_w1_keeps_the_factors_there_and_back():
    adapter = qkv_file(6)
    there = convert(updates_of(adapter), Conversion("lokr", "diffusers"), Target(FLUX))
    assert [made.name.path.rpartition(".")[2] for made in there.modules] == ["to_q", "to_k", "to_v"]
    assert [made.weights.w1.shape[0] for made in there.modules] == [2, 2, 2]
    moved = Adapter({m.name.full: m.weights for m in there.modules}, {m.name.full: m.name for m in there.modules})
    back = convert(updates_of(moved), Conversion("lokr", "original"), Target(FLUX))
    (made,), (old,) = back.modules, adapter.values()
    assert torch.equal(made.weights.w1.whole, old.w1.whole) and torch.equal(made.weights.w2.whole, old.w2.whole)


def test_a_cut_inside_a_block_is_refused_with_the_size_of_each_way():
    with pytest.raises(LoKrValueError, match="not a LoKr of the same factors") as error:
        convert(updates_of(qkv_file(4)), Conversion("lokr", "diffusers"), Target(FLUX))
    said = str(error.value)
    assert all(way in said for way in ("full:", "lora:", "nearest:", "--inexact"))


@pytest.mark.parametrize("way, form", [("lora", "LoRA"), ("nearest", "LoKr"), ("full", "full difference")])
def test_each_way_of_a_cut_inside_a_block_is_what_it_says(way, form):
    adapter = qkv_file(4)
    conversion = Conversion("lokr", "kohya", Keep(energy=0.999), inexact=way)
    found = convert(updates_of(adapter), Conversion(**{**vars(conversion), "names": "diffusers"}), Target(FLUX))
    delta = next(iter(adapter.values())).delta()
    row = 0
    for made in found.modules:
        exact = delta[row : row + made.weights.shape[0]]
        row += len(exact)
        if made.note:
            assert made.form == form
        lost = float((made.weights.delta() - exact).norm() / exact.norm()) ** 2
        assert made.energy == pytest.approx(1 - lost, abs=1e-5)
    assert any(made.note for made in found.modules)


def test_no_file_grows_unasked():
    """Factors that are not cut take as much in every format."""
    adapter, shapes, _ = trained("flux")
    for names in ("kohya", "comfyui", "diffusers"):
        found = convert(updates_of(adapter), Conversion("lokr", names), Target(shapes["comfyui"]))
        assert found.bytes <= 1.05 * found.before
        assert not any(made.note for made in found.modules)


def test_without_a_model_only_the_prefix_changes_where_that_is_enough():
    adapter = file_of({"transformer_blocks.0.attn.to_q": lokr((32, 32), "whole")})
    found = convert(updates_of(adapter), Conversion("lokr", "kohya"))
    assert [made.name.full for made in found.modules] == ["lora_unet_transformer_blocks_0_attn_to_q"]
    assert set(SPELLINGS) == {"kohya", "lycoris", "comfyui", "original", "diffusers", "peft"}


def real_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Diffusers' modules of a tiny UNet, with the width of the real one's text encoder, which tells them apart."""
    width = {"sd15": 768, "sd2": 1024, "sdxl": 2048}.get(architecture)
    modules = {name: shape for name, shape in recorded(architecture)[0].items() if len(shape) > 1}
    cross = {name: (shape[0], width) for name, shape in modules.items() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    return modules | (cross if width else {})


@pytest.mark.every_value
@pytest.mark.parametrize("names", ["comfyui", "diffusers", "original"])
@pytest.mark.parametrize(
    "architecture", ["sd15", "sd2", "flux", "flux2", "hunyuan_video", "auraflow", "mochi", "krea2"]
)
def test_without_a_model_the_names_and_shapes_of_the_file_tell_it(architecture, names):
    shapes = real_shapes(architecture)
    text = {"text_model.encoder.layers.0.mlp.fc1": (48, 32), "text_model.encoder.layers.0.self_attn.q_proj": (32, 32)}
    modules = {f"lora_unet_{name.replace('.', '_')}": lokr(shape, "whole") for name, shape in shapes.items()}
    modules |= {f"lora_te_{name.replace('.', '_')}": lokr(shape, "whole") for name, shape in text.items()}
    adapter = file_of(modules, "")
    model = {f"unet.{n}.weight": s for n, s in shapes.items()} | {
        f"text_encoder.{n}.weight": s for n, s in text.items()
    }
    if architecture not in ("sd15", "sd2"):
        model = {name.replace("unet.", "transformer."): shape for name, shape in model.items()}
    conversion = Conversion("lora", names, Keep(error=0))
    told = convert(updates_of(adapter), conversion, Target(model))
    found = convert(updates_of(adapter), conversion)
    wanted = {made.name.full: made for made in told.modules}
    assert {made.name.full for made in found.modules} == wanted.keys()
    for made in found.modules:
        other = wanted[made.name.full].weights
        assert made.weights.w2.b.shape == other.w2.b.shape
        assert torch.allclose(made.weights.delta(), other.delta(), atol=1e-4)
    assert any("by its names and shapes" in note for note in found.notes)


def test_what_the_names_do_not_tell_is_asked_for():
    adapter = file_of({"lora_unet_some_block_0_thing": lokr((8, 8), "whole")}, "")
    with pytest.raises(LoKrValueError, match="its architecture is not known") as error:
        convert(updates_of(adapter), Conversion("lora", "diffusers"))
    assert "--model" in str(error.value)


@pytest.mark.every_value
@pytest.mark.parametrize("way", ["lora", "full", "nearest"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architectures_cuts_by_each_way_are_what_is_told(architecture, way):
    """From its authors' names to diffusers', with factors that a third or a half seldom meets."""
    own = {n.removesuffix(".weight"): s for n, s in recorded(architecture)[1].items() if n.endswith(".weight")}
    modules = {n: lokr(s, "whole", factor=8, scaling=1.0) for n, s in own.items() if len(s) > 1}
    adapter = file_of(modules, "diffusion_model.")
    shapes = {f"diffusion_model.{name}": shape for name, shape in recorded(architecture)[1].items()}
    keep = Keep() if way == "nearest" else Keep(error=0)
    found = convert(updates_of(adapter), Conversion("lokr", "diffusers", keep, inexact=way), Target(shapes))
    assert not found.left_out
    moved = Adapter({m.name.full: m.weights for m in found.modules}, {m.name.full: m.name for m in found.modules})
    new, old = deltas(moved, shapes), deltas(adapter, shapes)
    assert new.keys() == old.keys()
    if way != "nearest":
        assert_same(new, old, 1e-5)
    lost = sum(float((new[name] - tensor).square().sum()) for name, tensor in old.items())
    total = sum(float(tensor.square().sum()) for tensor in old.values())
    assert 1 - found.energy == pytest.approx(lost / total, abs=1e-5)
