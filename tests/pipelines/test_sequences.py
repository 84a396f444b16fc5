"""After any sequence of load, set, fuse, unfuse, offload and delete, a pipeline is as a fresh one in that state."""

from __future__ import annotations

import copy
import random

import pytest
import torch

import lokr_core
from lokr_core import LoKrValueError

pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")

from diffusers.hooks import HookRegistry  # noqa: E402

from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.tiny import build, difference, outputs  # noqa: E402

NAMES = ("Flux.1", "Wan 2.2", "LTX-Video", "PixArt")
FILES = {"a": "diffusers", "b": "authors", "c": "kohya"}
FEW, MANY = 10, 200


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name -> (pipeline, folder of the files, changes of each file)."""
    found = {}
    for name in NAMES:
        pipe, folder = build(name), tmp_path_factory.mktemp("files")
        files = enumerate(FILES.items())
        changes = {f: lokr_files.write(name, n, pipe, folder / f"{f}.safetensors", i) for i, (f, n) in files}
        found[name] = pipe, folder, changes
    return found


class Walk:
    """A pipeline, and what should be in force on it.

    weights: of all that are loaded; active: names; scales: of those fused
    """

    def __init__(self, pipe, folder, chance: random.Random):
        self.pipe, self.folder, self.chance = pipe, folder, chance
        self.adapters, self.weights, self.active, self.scales = None, {}, set(), {}
        self.offloaded = False

    def step(self) -> str:
        steps = [self.load] if not self.weights else [self.load, self.set, self.fuse, self.unfuse, self.delete]
        step = self.chance.choice([*steps, self.offload])
        step()
        if self.adapters is not None:
            assert set(self.adapters.get_active_adapters()) == self.active
        return step.__name__

    def load(self):
        name = self.chance.choice(list(FILES))
        path = self.folder / f"{name}.safetensors"
        if name in self.weights:
            with pytest.raises(LoKrValueError):
                lokr_core.load_lokr_weights(self.pipe, path, adapter_name=name)
            return
        self.adapters = lokr_core.load_lokr_weights(self.pipe, path, adapter_name=name)
        self.weights[name], self.active = 1.0, {name}

    def some(self):
        return self.chance.sample(sorted(self.weights), self.chance.randint(1, len(self.weights)))

    def set(self):
        names = self.some()
        weights = [self.chance.choice((1.0, 0.5, -0.7, 0.0)) for _ in names]
        self.adapters.set_adapters(names, weights)
        self.weights |= dict(zip(names, weights, strict=True))
        self.active = set(names)

    def fuse(self):
        names, scale = self.some(), self.chance.choice((1.0, 0.6))
        self.adapters.fuse(names, lora_scale=scale)
        new = [name for name in names if name not in self.scales]
        self.scales |= dict.fromkeys(new, scale)
        self.active |= set(new)

    def unfuse(self):
        self.adapters.unfuse()
        self.scales.clear()

    def delete(self):
        names = self.some()
        self.adapters.delete_adapters(names)
        for name in names:
            del self.weights[name]
            self.scales.pop(name, None)
        self.active -= set(names)

    def offload(self):
        """diffusers' group offloading, which moves the weights at each forward, on and off."""
        for part in (part for name, part in self.pipe.components.items() if name.startswith("transformer")):
            if self.offloaded:
                HookRegistry.check_if_exists_or_initialize(part).remove_hook("group_offloading", recurse=True)
            else:
                part.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
        self.offloaded = not self.offloaded


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=[] if s < FEW else pytest.mark.exhaustive) for s in range(MANY)]
)
def test_a_random_sequence_ends_as_a_fresh_pipeline(seed, made):
    chance = random.Random(seed)
    name = NAMES[seed % len(NAMES)]
    base, folder, changes = made[name]
    walk, steps = Walk(copy.deepcopy(base), folder, chance), []
    for _ in range(chance.randint(3, 9)):
        steps.append(walk.step())
        if chance.random() < 0.4:
            outputs(name, walk.pipe)
    fresh = copy.deepcopy(base)
    for file in walk.active:
        lokr_files.apply(fresh, changes[file], walk.weights[file] * walk.scales.get(file, 1.0))
    assert difference(outputs(name, walk.pipe), outputs(name, fresh)) <= 2e-5, steps
    if walk.weights:
        walk.adapters.delete_adapters(list(walk.weights))
    assert difference(outputs(name, walk.pipe), outputs(name, base)) == 0, steps
