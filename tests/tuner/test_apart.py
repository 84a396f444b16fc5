"""Layers that stand in the model for as long as a block runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import LoKrMatchError, LoKrValueError, save_adapter
from lokr_core.formats import load_adapter
from lokr_core.tuner import LoKrConfig, LoKrLayers, get_lokr_model, trainable_modules

CONFIG = dict(r=2, decompose_factor=4, init_weights=False, order="lycoris")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(128, 16), nn.LayerNorm(16))


class Quantised(nn.Module):
    """A host's own Linear with a packed weight."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)


@pytest.mark.parametrize("dora", [None, "out"])
def test_inside_the_model_computes_as_a_lokr_model_and_outside_as_before(dora):
    config, x = LoKrConfig(**CONFIG, dora=dora), torch.randn(2, 8, 4, 4)
    model = small()
    plain, modules = model(x), list(model)
    layers = LoKrLayers(model, trainable_modules(model), config)
    wrapped = get_lokr_model(small(), LoKrConfig(**CONFIG, dora=dora, target_modules=["0", "2"]))
    with torch.no_grad():
        for name, parameter in layers.parameters().items():
            path, _, kind = name.partition(".")
            parameter.copy_(getattr(wrapped.get_submodule(f"model.{path}"), kind)["default"])
    with layers.inserted():
        assert torch.equal(model(x), wrapped(x))
        assert not torch.equal(model(x), plain)
    assert torch.equal(model(x), plain)
    assert all(now is before for now, before in zip(model, modules, strict=True))


def test_the_models_layers_are_back_after_an_error():
    model = small()
    modules = list(model)
    with pytest.raises(ZeroDivisionError), LoKrLayers(model, ["0"], LoKrConfig(**CONFIG)).inserted():
        raise ZeroDivisionError
    assert all(now is before for now, before in zip(model, modules, strict=True))


@pytest.mark.parametrize("dora", [None, "out"])
def test_a_hosts_own_quantised_layer_is_trained_in_fp32(dora):
    model = nn.Sequential(Quantised(nn.Linear(8, 8)))
    layers = LoKrLayers(model, trainable_modules(model), LoKrConfig(**CONFIG, dora=dora))
    assert {parameter.dtype for parameter in layers.parameters().values()} == {torch.float32}
    with layers.inserted():
        model(torch.randn(3, 8)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layers.parameters().values())


def test_the_file_gives_what_was_trained(tmp_path):
    model, x = small(), torch.randn(2, 8, 4, 4)
    layers = LoKrLayers(model, trainable_modules(model), LoKrConfig(**CONFIG, alpha=1.0))
    layers.train(False)
    with layers.inserted():
        expected = model(x)
    save_adapter(layers.to_adapter("net."), tmp_path / "a.safetensors")
    for name, weights in load_adapter(tmp_path / "a.safetensors").items():
        layer = model.get_submodule(name.removeprefix("net."))
        weights.fit(tuple(layer.weight.shape)).add_to_(layer.weight.data)
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_unknown_paths_and_other_kinds_are_refused():
    with pytest.raises(LoKrMatchError, match="no such module"):
        LoKrLayers(small(), ["7"], LoKrConfig())
    with pytest.raises(LoKrValueError, match="LayerNorm|Linear or a convolution"):
        LoKrLayers(small(), ["3"], LoKrConfig())
