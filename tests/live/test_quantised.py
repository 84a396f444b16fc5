"""Quantised bases with a forward of their own: live is as near to the fp32 reference as the base itself is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lokr_core import Adapter, LoKrError, attach
from tests.norms import relative


class Packed(torch.Tensor):
    """As GGUF packs hold a weight: bytes of blocks of 32 numbers with a scale, ``tensor_shape`` tells what they are."""

    @staticmethod
    def of(weight: torch.Tensor) -> Packed:
        blocks = weight.detach().reshape(-1, 32)
        scale = blocks.abs().amax(1, keepdim=True) / 127
        data = torch.cat([(blocks / scale).round().to(torch.int8).view(torch.uint8), scale.view(torch.uint8)], 1)
        packed = data.as_subclass(Packed)
        packed.tensor_shape = weight.shape
        return packed

    def dequantize(self) -> torch.Tensor:
        data = self.as_subclass(torch.Tensor)
        numbers, scale = (
            data[:, :32].contiguous().view(torch.int8).float(),
            data[:, 32:].contiguous().view(torch.float32),
        )
        return (numbers * scale).reshape(self.tensor_shape)


class GGUFLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.dequantize().to(x.dtype), self.bias.to(x.dtype))


class FourBit(nn.Module):
    """A stand-in for 4-bit layers: two numbers to a byte, no Linear, no floating weight."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        self.scale = nn.Parameter(weight.abs().amax(1, keepdim=True) / 7, requires_grad=False)
        numbers = ((weight / self.scale).round() + 8).to(torch.uint8)
        self.weight = nn.Parameter((numbers[:, ::2] << 4 | numbers[:, 1::2]).reshape(-1, 1), requires_grad=False)
        self.bias = layer.bias

    def numbers(self) -> torch.Tensor:
        packed = self.weight.reshape(self.out_features, -1)
        return (torch.stack([packed >> 4, packed & 15], -1).flatten(1).float() - 8) * self.scale

    def forward(self, x):
        return F.linear(x, self.numbers().to(x.dtype), self.bias.to(x.dtype))


def gguf(layer: nn.Linear) -> nn.Module:
    made = GGUFLinear(layer.in_features, layer.out_features)
    made.bias = layer.bias
    del made.weight
    made.weight = Packed.of(layer.weight)
    return made


@pytest.mark.parametrize("quantise", [gguf, FourBit])
@pytest.mark.parametrize("dora", [None, "out", "in"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_live_is_within_the_bases_own_error(make_lokr, quantise, dora, dtype):
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    update = make_lokr((32, 64), dora=dora)
    if dora:  # as trained: near the norms of what it belongs to
        axis = 1 if dora == "out" else 0
        scale = (layer.weight + update.delta(torch.float32)).norm(dim=axis, keepdim=True) * (1 + 0.1 * torch.rand(1))
        update = make_lokr((32, 64), dora=dora).__class__(update.w1, update.w2, update.scaling, scale.detach())
    x = torch.randn(5, 64)
    with torch.no_grad():
        base, weight = layer(x), update.add_to_(layer.weight.detach().clone())
        expected = F.linear(x, weight, layer.bias)
        model = nn.Sequential(quantise(layer))
        held = {name: tensor.clone() for name, tensor in vars(model[0])["_parameters"].items() if tensor is not None}
        error = relative(model(x), base) * base.norm() / expected.norm()
        assert error > 1e-4, "the base must have an error for this test to mean anything"
        hook = (lambda module: module.numbers()) if quantise is FourBit else None
        with attach(model, Adapter({"0": update}), weight_of=hook) as handle:
            assert handle.report.complete
            found = model(x.to(dtype))
        assert found.dtype == dtype
        assert relative(found.float(), expected) <= 1.5 * error + 2 * torch.finfo(dtype).eps
        assert relative(base, expected) > 4 * error, "the adapter must change more than the base's error"
    assert all(torch.equal(tensor, held[name]) for name, tensor in model[0]._parameters.items() if name in held)


def test_dora_without_the_weights_numbers_is_an_error_that_says_what_to_do(make_lokr):
    model = nn.Sequential(FourBit(nn.Linear(8, 4)))
    with attach(model, Adapter({"0": make_lokr((4, 8), dora="out")})):
        with pytest.raises(LoKrError, match="DoRA needs the base weight") as error:
            model(torch.randn(2, 8))
        assert "weight_of" in error.value.hint
        assert error.value.module == "0"
    with attach(model, Adapter({"0": make_lokr((4, 8))})) as handle:
        assert handle.report.complete
        model(torch.randn(2, 8))


@pytest.mark.parametrize("dora", [None, "out", "in"])
def test_the_dequantised_weight_is_asked_for_once(make_lokr, dora):
    model, asked = nn.Sequential(FourBit(nn.Linear(8, 4))), []

    def weight_of(module):
        asked.append(module)
        return module.numbers()

    with attach(model, Adapter({"0": make_lokr((4, 8), dora=dora)}), weight_of=weight_of), torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 8))
    assert len(asked) == (dora is not None)
