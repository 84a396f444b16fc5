"""A layer after ``merge_adapter`` gives what LyCORIS' own forward gives: every kind of layer, factor and DoRA.

The files are made and saved by lycoris-lora itself, with random weights.
"""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import nn

from lokr_core import load_adapter, merge_adapter

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


def cases():
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
        yield pytest.param(
            layer, channels, {**arguments, **DORA[dora], **extra}, form, dora, id="-".join((layer, *form, dora))
        )
    for layer, extra in itertools.product(("linear", "conv2d-3x3"), EXTRAS):
        arguments = {"lora_dim": 4, "factor": 4, "full_matrix": True, **extra}
        yield pytest.param(
            layer, (24, 40), arguments, ("whole", "whole"), "none", id=f"{layer}-full_matrix-{'-'.join(extra)}"
        )


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


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("layer,channels,arguments,form,dora", list(cases()))
def test_merged_layer_equals_lycoris_forward(layer, channels, arguments, form, dora, tmp_path):
    torch.manual_seed(0)
    model, x, base, expected = make(layer, channels, arguments, tmp_path / "a.safetensors")
    adapter = load_adapter(tmp_path / "a.safetensors")
    (weights,) = adapter.values()
    assert ("whole" if weights.w1.rank is None else "low-rank") == form[0]
    assert ("tucker" if weights.is_tucker else "whole" if weights.w2.rank is None else "low-rank") == form[1]
    assert (weights.dora_axis or "none") == dora
    assert relative(base, expected) > 1e-2, "the adapter must change something for this test to mean anything"

    before = model.layer.weight.clone()
    for strength in (1.0, 0.3, -1.0):
        with merge_adapter(model, adapter, strength):
            assert relative(model(x), base + strength * (expected - base)) <= 1e-6
        assert torch.equal(model.layer.weight, before)

    model.float()
    with merge_adapter(model, adapter):
        assert relative(model(x.float()), expected) <= 1e-5
