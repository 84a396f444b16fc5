"""An adapter that is saved and loaded gives the same updates; a file appears whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace

import pytest
import torch

from lokr_core import Adapter, Factor, LoKrValueError, LoKrWeights, load_adapter, save_adapter
from lokr_core import _files as files_module
from lokr_core._files import read_header, replacing, save_tensors
from lokr_core.adapter import Foreign

LINEAR, CONV = (8, 6), (8, 6, 3, 3)


def factors(form: str, dtype=torch.float32) -> tuple[Factor, Factor, tuple[int, ...]]:
    """w1, w2 and the shape of the weight they are for."""

    def randn(*shape):
        return torch.randn(shape).to(dtype)

    w1 = Factor(a=randn(2, 1), b=randn(1, 2)) if "both" in form else Factor(randn(2, 2))
    if form == "tucker":
        return w1, Factor(a=randn(2, 4), b=randn(2, 3), t=randn(2, 2, 3, 3)), CONV
    if form == "flattened":
        return w1, Factor(a=randn(4, 2), b=randn(2, 27)), CONV
    if "low-rank" in form:
        return w1, Factor(a=randn(4, 2), b=randn(2, 3)), LINEAR
    return w1, Factor(randn(4, 3)), LINEAR


FORMS = ["whole", "low-rank", "both low-rank", "both whole", "tucker", "flattened"]
DORA = {None: None, "out": (8, 1), "in": (1, 6)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def again(adapter: Adapter, path, **arguments) -> Adapter:
    save_adapter(adapter, path, **arguments)
    return load_adapter(path)


def assert_same_update(found: LoKrWeights, expected: LoKrWeights, shape, exactly: bool = True):
    for weights in (found, expected):
        assert weights.fits(shape)
    base = torch.randn(shape)
    first, second = found.add_to_(base.clone()), expected.add_to_(base.clone())
    assert torch.equal(first, second) if exactly else torch.allclose(first, second, rtol=1e-5, atol=1e-6)
    assert found.dora_axis == expected.dora_axis and found.is_tucker == expected.is_tucker


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dora", DORA)
@pytest.mark.parametrize("form", FORMS)
def test_round_trip(path, form, dora, dtype):
    torch.manual_seed(0)
    w1, w2, shape = factors(form, dtype)
    weights = LoKrWeights(w1, w2, dora_scale=None if dora is None else torch.rand(DORA[dora]) + 0.5)
    if weights.rank:
        weights = replace(weights, scaling=1.5, alpha=1.5 * weights.rank)
    found = again(Adapter({"layer": weights}), path)["layer"]
    assert_same_update(found, weights, shape)
    assert found.w1.tensors.keys() == w1.tensors.keys() and found.w2.tensors.keys() == w2.tensors.keys()
    assert all(t.dtype == dtype for t in found.w2.tensors.values())
    for original, stored in zip(w2.tensors.values(), found.w2.tensors.values(), strict=True):
        assert torch.equal(original, stored)


@pytest.mark.every_pair
@pytest.mark.parametrize("alpha", [None, 0.0, 3.0, -3.0, 7.7, 1e10])
@pytest.mark.parametrize("scaling", [1.0, 0.3, -2.0, 0.0, 1e-3, 4.0])
@pytest.mark.parametrize("form", FORMS)
def test_a_scaling_the_user_set_is_kept_whatever_alpha_was(path, form, scaling, alpha):
    torch.manual_seed(0)
    w1, w2, shape = factors(form)
    weights = LoKrWeights(w1, w2, scaling, alpha=alpha)
    found = again(Adapter({"layer": weights}), path)["layer"]
    assert_same_update(found, weights, shape, exactly=False)
    assert_same_update(again(Adapter({"layer": found}), path)["layer"], found, shape)


@pytest.mark.parametrize("scaling", [1e-6, 1e6])
def test_a_scaling_beyond_a_halfs_range_is_kept(path, scaling):
    w1, w2, shape = factors("whole", torch.float16)
    weights = LoKrWeights(w1, w2, scaling)
    assert_same_update(again(Adapter({"layer": weights}), path)["layer"], weights, shape, exactly=False)


@pytest.mark.parametrize("alpha", [None, 64.0, 512.0])
@pytest.mark.parametrize("scaling", [8.0, 1.0, 0.5])
def test_whole_factors_trained_with_rs_lora(path, scaling, alpha):
    """Their scaling is read out of metadata and alpha together; 512 = 64·√64."""
    w1, w2, shape = factors("whole")
    metadata = {"ss_network_args": json.dumps({"rs_lora": True}), "ss_network_dim": "64"}
    weights = LoKrWeights(w1, w2, scaling, alpha=alpha)
    found = again(Adapter({"layer": weights}, metadata=metadata), path)
    assert found.metadata == metadata
    assert_same_update(found["layer"], weights, shape, exactly=False)


OTHER_TRAINERS = [
    {"ss_network_module": "networks.lokr", "ss_network_dim": "64", "ss_network_alpha": "4"},
    {"ss_network_module": "networks.krona", "ss_network_args": json.dumps({"factor_in": "4"})},
    {"networkType": "lokr", "rank": "64", "alpha": "32"},
    {"ss_network_args": json.dumps({"lora_reg_dims": {".*": 1}}), "ss_network_dim": "8", "ss_network_alpha": "4"},
]


@pytest.mark.parametrize("metadata", OTHER_TRAINERS)
@pytest.mark.parametrize("scaling", [1.0, 1 / 16, 0.5, -3.0])
@pytest.mark.parametrize("form", FORMS)
def test_a_scaling_that_a_trainers_rule_gave(path, form, scaling, metadata):
    """The file keeps the metadata, so its reader goes by the same rule again."""
    torch.manual_seed(0)
    w1, w2, shape = factors(form)
    weights = LoKrWeights(w1, w2, scaling, alpha=None if "networkType" in metadata else 4.0)
    found = again(Adapter({"layer": weights}, metadata=metadata), path)
    assert_same_update(found["layer"], weights, shape, exactly=False)


def test_an_alpha_is_kept_to_the_last_bit(path):
    w1, w2, _ = factors("low-rank")
    for alpha in (0.1, 1 / 3, 7.0, 1e-30):
        assert again(Adapter({"layer": LoKrWeights(w1, w2, alpha / 2, alpha=alpha)}), path)["layer"].alpha == alpha


def test_everything_else_is_kept(path):
    w1, w2, _ = factors("low-rank")
    other = {"b.w_norm": torch.randn(3), "b.i": torch.arange(3), "c": torch.randn(2).half(), "d": torch.zeros(0, 2)}
    names = ["lora_unet_a", "x.y.0"]
    adapter = Adapter(
        {name: LoKrWeights(w1, w2) for name in names}, foreign=Foreign(other), metadata={"a": "1", "b": "2"}
    )
    found = again(adapter, path, metadata={"b": "3", "c": "4"})
    assert list(found) == names, "one tensor in two modules is stored for both"
    assert found.other.keys() == other.keys()
    assert all(torch.equal(found.other[key], t) and found.other[key].dtype == t.dtype for key, t in other.items())
    assert found.metadata == {"a": "1", "b": "3", "c": "4"} and adapter.metadata == {"a": "1", "b": "2"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_for_all_but_alphas_and_integers(path, dtype):
    w1, w2, _ = factors("low-rank")
    weights = LoKrWeights(w1, w2, 0.05, torch.rand(8, 1), alpha=0.1)
    adapter = Adapter({"layer": weights}, foreign=Foreign({"x": torch.ones(2), "i": torch.arange(2)}))
    again(adapter, path, dtype=dtype)
    stored = {key: info.dtype for key, info in read_header(path).tensors.items()}
    assert stored.pop("i") == torch.int64 and stored.pop("layer.alpha") in (torch.float32, torch.float64)
    assert set(stored.values()) == {dtype} and len(stored) == 5
    assert load_adapter(path)["layer"].alpha == 0.1
    assert adapter["layer"].w1.whole.dtype == torch.float32, "the adapter itself is left alone"


def test_a_dtype_too_narrow_is_refused_by_name_and_nothing_written(path):
    w1, w2, _ = factors("low-rank")
    adapter = Adapter({"layer": LoKrWeights(w1.map(lambda t: t * 1e6), w2)})
    with pytest.raises(LoKrValueError) as error:
        save_adapter(adapter, path, dtype=torch.float16)
    for said in ("lokr_w1 holds numbers that float16 cannot", "module: layer", "expected: at most 65504", "bfloat16"):
        assert said in str(error.value)
    with pytest.raises(LoKrValueError, match="floating dtype"):
        save_adapter(adapter, path, dtype=torch.int8)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("name", ["ü 風.safetensors", "x" * 243 + ".safetensors", "no ending", "-", ".hidden"])
def test_any_name_of_a_file(tmp_path, name):
    save_tensors({"a": torch.ones(2)}, tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tensors({"a": torch.ones(2)}, "a.safetensors")
    assert os.listdir() == ["a.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="modes and links as POSIX has them")
def test_the_file_has_the_mode_of_any_other_and_a_link_stays_one(tmp_path):
    (tmp_path / "usual").touch()
    target = tmp_path / "real.safetensors"
    save_tensors({"a": torch.ones(2)}, target)
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    link = tmp_path / "link.safetensors"
    link.symlink_to(target)
    save_tensors({"b": torch.ones(2)}, link)
    assert link.is_symlink() and list(read_header(target).tensors) == ["b"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("there_before", [True, False])
def test_an_interrupted_save_leaves_what_was_there(path, monkeypatch, problem, there_before):
    w1, w2, _ = factors("low-rank")
    adapter = Adapter({"layer": LoKrWeights(w1, w2)})
    if there_before:
        save_adapter(adapter, path)
        before = path.read_bytes()

    def half_way(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half a file")
        raise problem

    monkeypatch.setattr(files_module, "save_file", half_way)
    with pytest.raises(problem):
        save_adapter(adapter, path)
    assert [entry.name for entry in path.parent.iterdir()] == ([path.name] if there_before else [])
    assert not there_before or path.read_bytes() == before


def test_replacing_is_seen_at_the_end_only(path):
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == path.parent
    assert path.read_text() == "new" and not temporary.exists()


def test_tensors_that_share_memory_or_are_views_are_stored_as_what_they_are(path):
    buffer = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "all": buffer, "same": buffer, "rows": buffer[1:], "transposed": buffer.T, "column": buffer[:, 1],
        "expanded": torch.ones(1).expand(3), "parameter": torch.nn.Parameter(buffer[:1]),
    }  # fmt: skip
    save_tensors(tensors, path)
    found = files_module.load_tensors(path)[0]
    assert found.keys() == tensors.keys() and all(torch.equal(found[key], t) for key, t in tensors.items())


@pytest.mark.parametrize("form", ["whole", "low-rank"])
@torch.no_grad()
def test_lycoris_reads_what_we_write(path, form):
    lokr = pytest.importorskip("lycoris.modules.lokr", reason="LyCORIS' own reader is the expected value")
    torch.manual_seed(0)
    w2 = Factor(torch.randn(20, 12)) if form == "whole" else Factor(a=torch.randn(20, 2), b=torch.randn(2, 12))
    weights = LoKrWeights(Factor(torch.randn(2, 2)), w2, 1.0 if form == "whole" else 0.75)
    save_adapter(Adapter({"layer": weights}), path)
    stored = {key.removeprefix("layer."): t for key, t in files_module.load_tensors(path)[0].items()}
    tensors = [stored.get(name) for name in lokr.LokrModule.weight_list]
    layer, x = torch.nn.Linear(24, 40), torch.randn(3, 24)
    before = layer(x)
    lokr.LokrModule.make_module_from_state_dict("layer", layer, *tensors).apply_to()
    assert torch.allclose(layer(x) - before, x @ weights.delta().T, atol=1e-4)
    assert not torch.allclose(layer(x), before, atol=1e-2)
