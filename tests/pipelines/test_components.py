"""Adapters merged into some parts of a pipeline and live on the others."""

from __future__ import annotations

import copy

import pytest
import torch

import lokr_core
from lokr_core import LoKrMatchError, LoKrValueError
from lokr_core.live import hook_of

diffusers = pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")

from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.tiny import PIPELINES, build, difference, outputs  # noqa: E402


@pytest.fixture(scope="module", params=["SD3", "Wan 2.2"])
def made(request, tmp_path_factory):
    """(name, pipeline, file, its changes)"""
    pipe, file = build(request.param), tmp_path_factory.mktemp("files") / "a.safetensors"
    naming = "kohya" if request.param == "SD3" else "diffusers"
    return request.param, pipe, file, lokr_files.write(request.param, naming, pipe, file)


@pytest.fixture
def pipe(made):
    return copy.deepcopy(made[1])


def expected(made, strength=1.0, **of_parts):
    """What the pipeline puts out with the reference weights; a part may have a strength of its own."""
    pipe = copy.deepcopy(made[1])
    for part, changes in made[3].items():
        lokr_files.apply(pipe, {part: changes}, of_parts.get(part, strength))
    return outputs(made[0], pipe)


def changed(made, pipe) -> set[str]:
    """The parts some of whose weights are not those of the base."""
    parts = (*PIPELINES[made[0]].denoisers, *PIPELINES[made[0]].texts)
    return {part for part in parts if not _same(getattr(pipe, part), getattr(made[1], part))}


def _same(one, other) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def live(made, pipe) -> set[str]:
    parts = (*PIPELINES[made[0]].denoisers, *PIPELINES[made[0]].texts)
    return {part for part in parts if any(hook_of(module) for module in getattr(pipe, part).modules())}


def test_each_part_can_be_fused_alone_and_the_others_stay_live(pipe, made):
    name, _, file, changes = made
    adapters = lokr_core.load_lokr_weights(pipe, file, adapter_name="a")
    adapters.set_adapters("a", 0.5)
    report = adapters.reports["a"].headline
    for part in changes:
        adapters.fuse(components=part)
        assert changed(made, pipe) == {part} and live(made, pipe) == set(changes) - {part}
        assert adapters.get_list_adapters() == {each: ["a"] for each in changes}
        assert adapters.reports["a"].headline == report
        assert difference(outputs(name, pipe), expected(made, 0.5)) <= 1e-5
        adapters.set_adapters("a", 0.8)
        assert difference(outputs(name, pipe), expected(made, 0.8)) <= 1e-5
        adapters.set_adapters("a", {part: 0.2})
        assert difference(outputs(name, pipe), expected(made, **{part: 0.2})) <= 1e-5
        adapters.set_adapters("a", 0.5)
        adapters.unfuse(components=[part])
        assert changed(made, pipe) == set() and live(made, pipe) == set(changes)
    adapters.delete_adapters("a")
    assert difference(outputs(name, pipe), expected(made, 0)) == 0


def test_parts_fused_one_after_the_other_keep_the_scales_that_they_were_fused_with(pipe, made):
    name, _, file, changes = made
    adapters = lokr_core.load_lokr_weights(pipe, file, adapter_name="a")
    first, *others = changes
    adapters.fuse("a", lora_scale=0.5, components=[first])
    adapters.fuse("a", lora_scale=0.25)
    assert live(made, pipe) == set() and changed(made, pipe) == set(changes)
    assert difference(outputs(name, pipe), expected(made, 0.25, **{first: 0.5})) <= 1e-5
    adapters.unfuse(components=others)
    assert difference(outputs(name, pipe), expected(made, 1, **{first: 0.5})) <= 1e-5
    adapters.unfuse()
    assert difference(outputs(name, pipe), expected(made)) <= 1e-5
    adapters.delete_adapters("a")
    assert changed(made, pipe) == live(made, pipe) == set()


def test_an_unknown_part_is_refused_and_nothing_changes(pipe, made):
    adapters = lokr_core.load_lokr_weights(pipe, made[2], adapter_name="a")
    for call in (adapters.fuse, adapters.unfuse):
        with pytest.raises(LoKrValueError, match="Unknown components"):
            call(components=["vae"])
    assert changed(made, pipe) == set() and live(made, pipe) == set(made[3])


@pytest.mark.parametrize("engine", [lokr_core.attach, lokr_core.merge_adapter])
def test_an_adapter_can_be_put_on_one_part_alone(pipe, made, engine):
    name, _, file, changes = made
    adapter, last = lokr_core.load_adapter(file), list(changes)[-1]
    rest = dict.fromkeys(changes, 0) | {last: 1}
    with engine(pipe, adapter, components=[last]) as handle:
        assert {place.partition(".")[0] for place in handle.places} == {last}
        assert {entry.reason for entry in handle.report.refused} == {
            "its part of the pipeline is not among the components"
        }
        assert difference(outputs(name, pipe), expected(made, **rest)) <= 1e-5
    assert difference(outputs(name, pipe), expected(made, 0)) == 0
    with pytest.raises(LoKrMatchError, match="not among the components"):
        engine(pipe, adapter, components=[])
    assert changed(made, pipe) == live(made, pipe) == set()
