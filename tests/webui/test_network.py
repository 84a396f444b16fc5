"""From a prompt's tags to a model and back, in a stand-in of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from lokr_core import LoKrError, load_adapter, merge_adapter
from tests.webui.standin import ExtraNetworks, Model, Run, StandIn, entry, write_lokr
from webui import applied
from webui import network as bridge
from webui.network import LoKrNetwork

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(99))


class World:
    """The host, the files and the network."""

    def __init__(self, folder: Path):
        self.folder, self.host, self.noted = folder, StandIn(), []
        for seed, name in enumerate(("a", "b", "c")):
            write_lokr(folder / f"{name}.safetensors", seed)
        self.networks = ExtraNetworks()
        self.mode = "live"
        self.network = LoKrNetwork(self.host, self.find, lambda: self.mode, lambda p, used: self.noted.append([*used]))
        self.networks.register_extra_network(self.network)

    def find(self, name: str):
        if not (self.folder / f"{name}.safetensors").exists():
            raise LoKrError(f"There is no LoKr of this name: {name!r}", found="near: a")
        return entry(self.folder / f"{name}.safetensors")

    def activate(self, prompt: str) -> Run:
        run = Run()
        self.data = self.networks.parse_prompts([prompt])[1]
        self.networks.activate(run, self.data)
        return run

    def outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return self.host.loaded.encode(X), self.host.loaded.denoise(X)

    def expected(self, *strengths: tuple[str, float, float]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a model with (name, te, unet) merged into it."""
        model = Model()
        for name, te, unet in strengths:
            adapter = load_adapter(self.folder / f"{name}.safetensors")
            merge_adapter(model, adapter, factors=lambda m, te=te, unet=unet: te if "cond_stage" in m else unet)
        with torch.no_grad():
            return model.encode(X), model.denoise(X)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def same(one, other) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("mode", ["live", "merge"])
def test_a_prompt_has_its_tags_and_the_next_one_nothing_of_them(world: World, mode: str):
    world.mode, base, weights = mode, world.outputs(), bits(world.host.loaded)
    for prompt, expected in (
        ("x <lokr:a>", [("a", 1, 1)]),
        ("x <lokr:a:0.5>", [("a", 0.5, 0.5)]),
        ("x <lokr:a:0.5:-2>", [("a", 0.5, -2)]),
        ("x <lokr:b:0:1> y <lokr:a:0.3>", [("b", 0, 1), ("a", 0.3, 0.3)]),
        ("x <lokr:a:0.3> <lokr:a:0.4>", [("a", 0.7, 0.7)]),
    ):
        run = world.activate(prompt)
        assert same(world.outputs(), world.expected(*expected)), prompt
        assert not run.comments
    assert not equal(world.outputs(), base)
    world.activate("x")
    assert equal(world.outputs(), base)
    assert hooks(world.host.loaded) == 0 and bits(world.host.loaded) == weights


def bits(model: nn.Module) -> dict[str, list]:
    return {name: tensor.view(torch.int32).tolist() for name, tensor in model.state_dict().items()}


def test_a_changed_strength_attaches_nothing(world: World, monkeypatch):
    world.activate("x <lokr:a:0.5> <lokr:b:0.5>")
    monkeypatch.setattr(applied, "attach", lambda *_, **__: pytest.fail("attached again"))
    monkeypatch.setattr(bridge, "load_adapter", lambda *_, **__: pytest.fail("read again"))
    world.activate("y <lokr:a:0.2> <lokr:b:-1:blocks=IN=0>")
    world.networks.deactivate(Run(), world.data)
    world.activate("y <lokr:a:0.7>")
    assert same(world.outputs(), world.expected(("a", 0.7, 0.7)))


def test_whatever_ran_before_the_result_is_that_of_a_fresh_start_bit_for_bit(world: World, tmp_path: Path):
    prompt = "x <lokr:c:0.7> <lokr:a:0.1> <lokr:b:0.3>"
    world.activate(prompt)
    fresh = world.outputs()
    for before in ("<lokr:a>", "<lokr:b> <lokr:a>", "<lokr:b> <lokr:c>", "<lokr:a:mode=merge> <lokr:c>", "nothing"):
        world.activate(before)
        world.activate(prompt)
        assert equal(world.outputs(), fresh), before


def test_after_a_run_the_model_is_its_own_and_a_run_that_broke_leaves_nothing(world: World):
    base = world.outputs()
    world.activate("x <lokr:a>")
    world.networks.deactivate(Run(), world.data)
    assert equal(world.outputs(), base)
    world.activate("x <lokr:a>")  # broken off: no deactivate
    world.activate("x <lokr:b>")
    assert same(world.outputs(), world.expected(("b", 1, 1)))
    world.activate("x")
    assert equal(world.outputs(), base)


def test_a_tag_that_cannot_be_is_told_and_the_others_are_in_force(world: World):
    (world.folder / "broken.safetensors").write_bytes(b"not a safetensors file at all")
    run = world.activate("x <lokr:nothing> <lokr:a:0.5> <lokr:a:strong> <lokr:broken> <lokr:a:1:blocks=DOUBLE=0>")
    assert same(world.outputs(), world.expected(("a", 0.5, 0.5)))
    said = list(run.comments)
    assert [text.split(":")[0] for text in said] == ["LoKr <lokr"] * 4
    for text, words in zip(said, ("near: a", "not a number", "broken.safetensors", "DOUBLE"), strict=True):
        assert words in text and str(world.folder) not in text


def test_an_adapter_for_another_model_is_told(world: World):
    stranger = write_lokr(world.folder / "stranger.safetensors", 5)
    from safetensors.torch import load_file, save_file

    tensors = load_file(stranger)
    save_file({name.replace("input", "first"): tensor for name, tensor in tensors.items()}, str(stranger))
    (text,) = world.activate("x <lokr:stranger>").comments
    assert "3 of 4 modules applied, 1 refused" in text
    assert "1 × no such weight in this model, such as lora_unet_first_blocks_0_0" in text
    save_file({f"lora_unet_up_{name}": tensor for name, tensor in tensors.items()}, str(stranger))
    os.utime(stranger, ns=(1, 1))
    base = world.outputs()
    (text,) = world.activate("x <lokr:stranger>").comments
    assert "None of the 4 modules" in text
    world.activate("x")
    assert not equal(world.outputs(), base)  # the three modules of the file as it was before are gone


def test_a_window_is_open_for_its_steps_and_the_text_encoder_has_none(world: World):
    text, full = world.expected(("a", 0.6, 0.6))
    _, off = world.expected(("a", 0.6, 0))
    world.activate("x <lokr:a:0.6:start=0.3:end=0.7>")
    for percent, expected in ((0.0, off), (0.5, full), (0.9, off), (0.3, full)):
        world.network.step(percent)
        assert same(world.outputs(), (text, expected)), percent
    assert same(world.outputs()[:1], (text,))


def test_another_model_takes_the_tags_over_in_the_middle_of_a_run(world: World):
    first = world.host.loaded
    world.activate("x <lokr:a:0.5> <lokr:b:1:mode=merge>")
    world.host.loaded = Model(seed=1)
    world.network.model_taken(world.host.loaded)
    assert hooks(first) == 0 and bits(first) == bits(Model())
    assert hooks(world.host.loaded) == 2 * 4  # before and after the forward of each layer
    world.network.model_loaded(third := Model(seed=2))  # a refiner, which the host says before it is the model
    assert hooks(world.host.loaded) == 0 and bits(world.host.loaded) == bits(Model(seed=1)) and hooks(third) == 2 * 4
    world.host.loaded = third
    world.activate("x")
    assert hooks(third) == 0 and bits(third) == bits(Model(seed=2))


def test_what_the_host_does_for_itself_within_a_run_is_without_the_runs_tags(world: World):
    base = world.outputs()
    world.activate("x <lokr:a:0.5>")
    during = world.outputs()
    with world.network.set_aside():
        world.networks.activate(Run(), {})
        assert equal(world.outputs(), base)
    assert equal(world.outputs(), during)
    world.networks.deactivate(Run(), world.data)
    with world.network.set_aside():
        world.networks.activate(Run(), {})
    assert equal(world.outputs(), base)


def test_weights_loaded_into_the_same_model_stay_as_they_were_loaded(world: World):
    world.activate("x <lokr:a> <lokr:b:1:mode=merge>")
    world.networks.deactivate(Run(), world.data)
    world.host.loaded.load_state_dict(Model(seed=1).state_dict())
    world.network.model_loaded(world.host.loaded)
    assert hooks(world.host.loaded) == 0
    world.activate("x")
    assert bits(world.host.loaded) == bits(Model(seed=1))


def test_others_take_their_updates_out_before_weights_change(world: World):
    world.activate("x <lokr:a:0.5:mode=merge>")
    assert world.host.gave_back == 1
    world.activate("y <lokr:a:0.5:mode=merge>")
    assert world.host.gave_back == 1  # nothing changes
    world.activate("y <lokr:a:0.6:mode=merge>")
    assert world.host.gave_back == 2
    world.activate("y")
    assert world.host.gave_back == 3
    world.activate("y <lokr:a>")
    assert world.host.gave_back == 3


def test_the_hosts_cache_of_encoded_prompts_tells_files_apart(world: World):
    world.activate("x <lokr:a:0.5:te=1> <lokr:new>")
    first = world.data
    world.networks.activate(Run(), first)  # hires fix: again, with the same tags
    world.activate("x <lokr:a:0.5:te=1> <lokr:new>")
    assert world.data == first
    assert first["lokr"][0].positional == ["a", "0.5"] and first["lokr"][0].named == {"te": "1"}
    write_lokr(world.folder / "new.safetensors", 7)
    world.activate("x <lokr:a:0.5:te=1> <lokr:new>")
    assert world.data != first


def test_a_replaced_file_is_read_anew(world: World):
    world.activate("x <lokr:a>")
    write_lokr(world.folder / "a.safetensors", 8)
    os.utime(world.folder / "a.safetensors", ns=(1, 1))
    world.activate("x <lokr:a>")
    assert same(world.outputs(), world.expected(("a", 1, 1)))


def test_the_report_of_a_file_that_is_on_the_model_or_not(world: World):
    assert world.network.report(world.find("a")).headline == "4 of 4 modules applied"
    world.activate("x <lokr:a>")
    assert world.network.report(world.find("a")).headline == "4 of 4 modules applied"
    world.activate("x")
    world.host.loaded = None
    world.network.close()
    assert world.network.report(world.find("a")) is None
    world.activate("x <lokr:a>")  # no model: nothing to do, and no error


def test_what_was_used_is_noted(world: World):
    world.activate("x <lokr:a:0.5> <lokr:nothing> <lokr:b>")
    assert [use.request.tag.name for use in world.noted[-1]] == ["a", "b"]
    world.activate("x")
    assert world.noted[-1] == []


def test_what_the_model_refused_is_not_noted(world: World):
    world.host.loaded.cond_stage_model = nn.Module()
    world.host.loaded.model = nn.Module()
    run = world.activate("x <lokr:a:0.5>")
    assert "None of the 4 modules" in next(iter(run.comments))
    assert world.noted[-1] == []
    world.network.model_loaded(Model(seed=2))  # a refiner that takes the file
    assert [use.request.tag.name for use in world.noted[-1]] == ["a"]
