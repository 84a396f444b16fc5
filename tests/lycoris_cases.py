"""Layers and files of LyCORIS networks for them, of every kind of layer, factor and DoRA, with LyCORIS' own output.

The files are made and saved by lycoris-lora itself, with random weights.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tests.covering import covering

lycoris = pytest.importorskip("lycoris", reason="lycoris-lora is the expected value of these tests")

SPATIAL = {"Conv1d": (9,), "Conv2d": (7, 8), "Conv3d": (5, 4, 6)}

# name -> (class, positional arguments after (in, out), keyword arguments)
LAYERS = {
    "linear": (nn.Linear, (), {}),
    "conv1d": (nn.Conv1d, (3,), {"padding": 1}),
    "conv2d-1x1": (nn.Conv2d, (1,), {}),
    "conv2d-3x3": (nn.Conv2d, (3,), {"padding": 1}),
    "conv2d-stride": (nn.Conv2d, ((3, 2),), {"stride": 2, "dilation": 2}),
    "conv2d-groups": (nn.Conv2d, (3,), {"groups": 2}),
    "conv3d": (nn.Conv3d, ((3, 1, 2),), {}),
}
# form of w1, of w2 -> channels (in, out) and LyCORIS arguments that bring it about
FORMS = {
    ("whole", "whole"): ((24, 40), {"lora_dim": 100000, "factor": 4}),
    ("whole", "low-rank"): ((24, 40), {"lora_dim": 2, "factor": 4}),
    ("whole", "tucker"): ((24, 40), {"lora_dim": 2, "factor": 4, "use_tucker": True}),
    ("low-rank", "whole"): (
        (8, 64),
        {"lora_dim": 3, "factor": 2, "decompose_both": True, "unbalanced_factorization": True},
    ),
    ("low-rank", "low-rank"): ((96, 80), {"lora_dim": 3, "factor": -1, "decompose_both": True}),
    ("low-rank", "tucker"): ((96, 80), {"lora_dim": 3, "factor": -1, "decompose_both": True, "use_tucker": True}),
}
DORA = {
    "none": {},
    "out": {"weight_decompose": True, "wd_on_out": True},
    "in": {"weight_decompose": True, "wd_on_out": False},
}
# What a trainer may set besides; the cases take these in turn.
EXTRAS = [
    {"alpha": 1.0},
    {"alpha": 7.5, "use_scalar": True},
    {"alpha": 2.0, "rs_lora": True},
    {"alpha": 0.5, "rs_lora": True, "use_scalar": True},
]


def cases() -> list:
    """Parameters ``layer, channels, arguments, form, dora``; those that only repeat pairs of values are exhaustive."""
    found = list(_product())
    rows = [
        [("layer", layer), ("form", form), ("dora", dora), *_extra(arguments)]
        for _, layer, _, arguments, form, dora in found
    ]
    kept = covering(rows, strength=2)
    return [
        pytest.param(*values, id=name, marks=() if index in kept else pytest.mark.exhaustive)
        for index, (name, *values) in enumerate(found)
    ]


def _extra(arguments: dict) -> list[tuple]:
    names = {name for extra in EXTRAS for name in extra} | {"full_matrix"}
    return [("extra", tuple((name, arguments[name]) for name in sorted(names & arguments.keys())))]


def _product() -> Iterator[tuple]:
    """(id, layer, channels, arguments, form, dora)"""
    product = itertools.product(LAYERS, FORMS, DORA)
    extras = itertools.cycle(EXTRAS)
    for layer, form, dora in product:
        if form[1] == "tucker" and layer in ("linear", "conv2d-1x1"):
            continue
        if form == ("low-rank", "whole") and layer == "conv2d-groups":
            (channels, arguments) = ((16, 64), FORMS[form][1])
        else:
            channels, arguments = FORMS[form]
        extra = next(extras)
        yield "-".join((layer, *form, dora)), layer, channels, {**arguments, **DORA[dora], **extra}, form, dora
    for layer, extra in itertools.product(("linear", "conv2d-3x3"), EXTRAS):
        arguments = {"lora_dim": 4, "factor": 4, "full_matrix": True, **extra}
        yield f"{layer}-full_matrix-{'-'.join(extra)}", layer, (24, 40), arguments, ("whole", "whole"), "none"


class Model(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def make(
    layer: str, channels: tuple[int, int], arguments: dict, path
) -> tuple[Model, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer and the file of a LyCORIS network trained for it: (model, x, base output, LyCORIS' output), in fp64."""
    kind, positional, keywords = LAYERS[layer]
    model = Model(kind(*channels, *positional, **keywords)).double()
    x = (
        torch.randn(2, channels[0], *SPATIAL[kind.__name__])
        if kind.__name__ in SPATIAL
        else torch.randn(2, 5, channels[0])
    )
    x = x.double()
    base = model(x).detach()
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Linear", "Conv1d", "Conv2d", "Conv3d"]})
    rank, alpha = arguments["lora_dim"], arguments["alpha"]
    # The network itself, as LyCORIS' kohya entry builds it: ``create_lycoris`` drops rs_lora.
    network = lycoris.LycorisNetwork(
        model, conv_lora_dim=rank, conv_alpha=alpha, network_module="lokr", **arguments
    ).double()
    for module in network.loras:
        for name, parameter in module.named_parameters():
            # A trained magnitude stays near the norm it started from; a factor is anything.
            with torch.no_grad():
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter)) if name == "dora_scale" else parameter.normal_(
                    std=0.5
                )
    network.apply_to()
    network.eval()
    output = model(x).detach()
    network.restore()
    metadata = {"ss_network_args": json.dumps(arguments), "ss_network_dim": str(rank)}
    network.save_weights(str(path), None, metadata)
    return model, x, base, output
