"""A stand-in for what the bridge meets of A1111: extra networks, a run, and a model with A1111's names.

``test_standin.py`` checks it against the real one, where that is present.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lokr_core import merge_adapter
from webui.host import HostModel

UNET = ("input_blocks.0.0", "middle_block.0.proj", "output_blocks.0.0")
TEXT = "text_model.encoder.layers.0.mlp.fc1"


class ExtraNetworkParams:
    """Of A1111's ``modules.extra_networks``."""

    def __init__(self, items=None):
        self.items = items or []
        self.positional = [item for item in self.items if "=" not in item]
        self.named = dict(item.split("=", 1) for item in self.items if "=" in item)

    def __eq__(self, other):
        return self.items == other.items


class ExtraNetworks:
    """Of A1111's ``modules.extra_networks``: tags of a prompt, and the networks that are told of them."""

    def __init__(self):
        self.registry = {}

    def register_extra_network(self, extra_network):
        self.registry[extra_network.name] = extra_network

    def parse_prompts(self, prompts):
        """The prompts without tags, and the tags of the first."""
        data = defaultdict(list)
        for name, arguments in re.findall(r"<(\w+):([^>]+)>", prompts[0]):
            data[name].append(ExtraNetworkParams(arguments.split(":")))
        return [re.sub(r"<(\w+):([^>]+)>", "", prompt) for prompt in prompts], data

    def activate(self, p, extra_network_data):
        for name, network in self.registry.items():
            network.activate(p, extra_network_data.get(name, []))

    def deactivate(self, p, extra_network_data):
        for network in self.registry.values():
            network.deactivate(p)


@dataclass
class Run:
    """Of A1111's ``StableDiffusionProcessing``."""

    comments: dict = field(default_factory=dict)
    scripts: object = None

    def comment(self, text):
        self.comments[text] = 1


class Model(nn.Module):
    """A text encoder, a denoiser and a VAE of one layer or three each."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.model = nested({f"diffusion_model.{name}": nn.Linear(8, 8) for name in UNET})
        self.cond_stage_model = nested({f"wrapped.transformer.{TEXT}": nn.Linear(8, 8)})
        self.first_stage_model = nested({"decoder": nn.Linear(8, 8)})

    def encode(self, x: Tensor) -> Tensor:
        return self.cond_stage_model.get_submodule(f"wrapped.transformer.{TEXT}")(x)

    def denoise(self, x: Tensor) -> Tensor:
        for name in UNET:
            x = torch.tanh(self.model.get_submodule(f"diffusion_model.{name}")(x))
        return x


def nested(layers: dict[str, nn.Module]) -> nn.Module:
    root = nn.Module()
    for path, layer in layers.items():
        *parents, last = path.split(".")
        at = root
        for name in parents:
            if not hasattr(at, name):
                at.add_module(name, nn.Module())
            at = getattr(at, name)
        at.add_module(last, layer)
    return root


class StandIn:
    """A host (see ``webui.host.Host``) with one model."""

    def __init__(self):
        self.loaded, self.gave_back = Model(), 0
        self.words = {}

    def model(self, owner=None):
        owner = self.loaded if owner is None else owner
        return owner and HostModel(owner, owner, ("model.diffusion_model.",), ("cond_stage_model.",))

    def weight_of(self, module):
        return None

    def merge(self, model, adapter, factors):
        return merge_adapter(model.root, adapter, target=model.target, factors=factors)

    def lend_embeddings(self, model, embeddings):
        lent = {each.word: each for each in embeddings if each.word not in self.words}
        self.words |= lent

        def take_back():
            for word in lent:
                self.words.pop(word, None)

        return {key for each in lent.values() for key in each.modules.values()}, take_back

    def give_back_weights(self, modules):
        self.gave_back += 1

    def watch(self, watcher):
        """The door calls this."""

    def percent(self, step):
        return step

    def tell(self, p, text):
        p.comment(text)

    def trouble(self, text):
        raise AssertionError(text)


def write_lokr(path: Path, seed: int, text: bool = True) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in [f"lora_unet_{name.replace('.', '_')}" for name in UNET] + [f"lora_te_{TEXT.replace('.', '_')}"] * text:
        tensors[f"{name}.lokr_w1"] = torch.randn(2, 2, generator=generator)
        tensors[f"{name}.lokr_w2"] = torch.randn(4, 4, generator=generator) / 4
    save_file(tensors, str(path))
    return path


def entry(path: Path):
    """Of ``webui.library.Entry``, what the network asks for."""
    status = path.stat()
    version = (status.st_mtime_ns, status.st_size)
    return SimpleNamespace(name=path.stem, path=path, version=version, outline=object(), is_lokr=True)
