"""diffusers' ``fuse_qkv_projections`` after ``attach`` and ``merge_adapter`` have taken a pipeline."""

from __future__ import annotations

import copy

import pytest

import lokr_core
from lokr_core import LoKrValueError

diffusers = pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")

from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.test_beside import QKV, fuse_qkv  # noqa: E402
from tests.pipelines.tiny import build, difference, outputs  # noqa: E402

RUN_FUSED = [name for name in QKV if name != "Qwen-Image"]  # whose processor goes on running the parts


def made(name, path, naming="diffusers"):
    """(pipeline, adapter, what the pipeline puts out with it at a strength)"""
    pipe = build(name)
    changes = lokr_files.write(name, naming, pipe, path / "a.safetensors")

    def expected(strength, part=None):
        reference = copy.deepcopy(pipe)
        lokr_files.apply(reference, {key: each for key, each in changes.items() if part in (None, key)}, strength)
        return outputs(name, reference)

    return copy.deepcopy(pipe), lokr_core.load_adapter(path / "a.safetensors"), expected


@pytest.mark.parametrize("name", RUN_FUSED)
def test_what_is_attached_acts_on_the_projections_that_run(name, tmp_path):
    pipe, adapter, expected = made(name, tmp_path)
    with lokr_core.attach(pipe, adapter, 0.5) as handle:
        places = handle.places
        for undo in (False, True, False):
            fuse_qkv(pipe, name, undo)
            handle.strength = 0.8
            assert difference(outputs(name, pipe), expected(0.8)) <= 1e-5
            assert (handle.places == places) is undo
            handle.strength = 0.5
            assert difference(outputs(name, pipe), expected(0.5)) <= 1e-5
            handle.enabled = False
            assert difference(outputs(name, pipe), expected(0)) <= 1e-5
            handle.enabled = True
    fused = outputs(name, pipe)
    assert difference(fused, expected(0)) <= 1e-5
    fuse_qkv(pipe, name, undo=True)
    assert difference(outputs(name, pipe), expected(0)) == 0


def test_factors_stay_with_the_modules_that_they_were_for(tmp_path):
    pipe, adapter, expected = made("Flux.1", tmp_path)
    with lokr_core.attach(pipe, adapter, factors=lambda place: float(place.startswith("transformer."))):
        fuse_qkv(pipe, "Flux.1")
        assert difference(outputs("Flux.1", pipe), expected(1, "transformer")) <= 1e-5


def test_a_copy_of_a_pipeline_follows_its_own_projections(tmp_path):
    pipe, adapter, expected = made("Flux.1", tmp_path)
    lokr_core.attach(pipe, adapter)
    copied = copy.deepcopy(pipe)
    fuse_qkv(copied, "Flux.1")
    assert difference(outputs("Flux.1", copied), expected(1)) <= 1e-5
    assert difference(outputs("Flux.1", pipe), expected(1)) <= 1e-5


def test_a_handle_that_is_removed_follows_no_more(tmp_path):
    pipe, adapter, expected = made("Flux.1", tmp_path)
    lokr_core.attach(pipe, adapter).remove()
    fuse_qkv(pipe, "Flux.1")
    assert difference(outputs("Flux.1", pipe), expected(0)) <= 1e-5


@pytest.mark.parametrize("name", RUN_FUSED)
def test_what_is_merged_stays_right_and_is_not_changed_while_others_run(name, tmp_path):
    """diffusers copies the merged weights: taken out of the originals, the update would be left in the copies."""
    pipe, adapter, expected = made(name, tmp_path)
    handle = lokr_core.merge_adapter(pipe, adapter, 0.5)
    fuse_qkv(pipe, name)
    assert difference(outputs(name, pipe), expected(0.5)) <= 1e-5
    for change in (handle.remove, lambda: setattr(handle, "strength", 0.2), lambda: setattr(handle, "enabled", False)):
        with pytest.raises(LoKrValueError, match="fuse_qkv_projections"):
            change()
        assert difference(outputs(name, pipe), expected(0.5)) <= 1e-5
    fuse_qkv(pipe, name, undo=True)
    handle.strength = 0.2
    assert difference(outputs(name, pipe), expected(0.2)) <= 1e-5
    handle.remove()
    assert difference(outputs(name, pipe), expected(0)) == 0
