"""Quantised transformers of a pipeline: live adds the whole update to the base's output; fuse refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import lokr_core
from lokr_core import LoKrError

pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")

from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.tiny import build, difference, outputs  # noqa: E402

NAME = "Z-Image"  # its layers are multiples of 32, GGUF's block


def torchao(model: nn.Module) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="NO TORCHAO HERE: pip install -e .[quantised]")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())


def quanto(model: nn.Module) -> None:
    module = pytest.importorskip("optimum.quanto", reason="NO QUANTO HERE: pip install -e .[quantised]")
    module.quantize(model, weights=module.qint8)
    module.freeze(model)


def gguf(model: nn.Module) -> None:
    quants = pytest.importorskip("gguf", reason="NO GGUF HERE: pip install -e .[quantised]").quants
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear and layer.in_features % 32 == 0:
                new = GGUFLinear(layer.in_features, layer.out_features, layer.bias is not None, torch.float32)
                kind = quants.GGMLQuantizationType.Q8_0
                data = torch.from_numpy(quants.quantize(layer.weight.detach().numpy(), kind))
                new.weight, new.bias = GGUFParameter(data, quant_type=kind), layer.bias
                setattr(module, name, new)


def bitsandbytes(model: nn.Module) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="NO BITSANDBYTES HERE: pip install -e .[quantised]")
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear and layer.in_features % 64 == 0:
                new = bnb.nn.Linear4bit(
                    layer.in_features, layer.out_features, layer.bias is not None, torch.float32, quant_type="nf4"
                )
                new.weight = bnb.nn.Params4bit(layer.weight.detach(), requires_grad=False, quant_type="nf4")
                new.bias = layer.bias
                setattr(module, name, new.to("cpu"))


@pytest.mark.parametrize("quantise", [torchao, quanto, gguf, bitsandbytes])
def test_a_quantised_transformer_takes_the_adapter_live(quantise, tmp_path):
    pipe = build(NAME)
    changes = lokr_files.write(NAME, "authors", pipe, tmp_path / "a.safetensors")
    reference = copy.deepcopy(pipe)
    quantise(pipe.transformer)
    base = outputs(NAME, pipe)
    _dequantise(pipe.transformer, reference.transformer)
    assert difference(outputs(NAME, reference), base) <= 1e-5, "not the quantised base's numbers"
    lokr_files.apply(reference, changes)
    adapters = lokr_core.load_lokr_weights(pipe, tmp_path / "a.safetensors")
    assert adapters.reports["default_0"].complete, adapters.reports["default_0"].text()
    expected = outputs(NAME, reference)
    assert difference(outputs(NAME, pipe), expected) <= 1e-5
    with pytest.raises(LoKrError):
        adapters.fuse()
    assert difference(outputs(NAME, pipe), expected) <= 1e-5
    adapters.delete_adapters("default_0")
    assert difference(outputs(NAME, pipe), base) == 0


@torch.no_grad()
def _dequantise(quantised: nn.Module, plain: nn.Module) -> None:
    """Give ``plain`` the numbers of the quantised Linears: what they do to the unit vectors."""
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Linear):
            other = quantised.get_submodule(name)
            weight = other(torch.eye(layer.in_features)).T
            layer.weight.copy_(weight if layer.bias is None else weight - layer.bias[:, None])
