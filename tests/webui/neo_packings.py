"""Models with drawn weights, plain or packed in the ways that Forge Neo packs them: made in its interpreter."""

from __future__ import annotations

import json

import torch
from backend import memory_management, operations
from backend.operations_gguf import ParameterGGUF, dequantize_tensor
from backend.quant_ops import QUANT_ALGOS, QuantizedTensor
from modules_forge.packages import gguf
from torch import Tensor, nn

Weights = dict[str, Tensor]


def made(make, weights: Weights | None = None, **arguments) -> nn.Module:
    with operations.using_forge_operations(device=torch.device("cpu"), dtype=torch.float32, **arguments):
        model = make()
    if weights is not None:
        missing = model.load_state_dict(weights, strict=False).missing_keys
        assert not missing, missing
    return model.requires_grad_(False).eval()


def drawn(model: nn.Module) -> Weights:
    """Weights of a usual size for each of the model's parameters."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(w.shape, generator=generator) / max(1, w[0].numel()) ** 0.5
        if w.ndim > 1
        else torch.ones(w.shape) + 0.1 * torch.randn(w.shape, generator=generator)
        for name, w in model.state_dict().items()
    }


def linears(model: nn.Module) -> list[str]:
    """The weights that adapters are made for, and that are packed."""
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and all(size % 32 == 0 for size in module.weight.shape)
    ]


def fp8(make, weights: Weights, names: list[str]) -> tuple[nn.Module, Weights]:
    model = made(make, weights, manual_cast_enabled=True)
    for name in names:
        model.get_submodule(name[:-7]).weight = nn.Parameter(weights[name].to(torch.float8_e4m3fn), False)
    return model, {name: model.get_parameter(name).float() for name in names}


def gguf_of(kind: str):
    def pack(make, weights: Weights, names: list[str]) -> tuple[nn.Module, Weights]:
        quantisation, packed = gguf.GGMLQuantizationType[kind], dict(weights)
        for name in names:
            data = torch.from_numpy(gguf.quants.quantize(weights[name].numpy(), quantisation))
            packed[name] = ParameterGGUF(data, tensor_type=quantisation, tensor_shape=weights[name].shape)
        packed = {name: w if name in names else nn.Parameter(w, False) for name, w in packed.items()}
        model = made(make, packed, manual_cast_enabled=True, bnb_dtype="gguf")
        memory_management.bake_gguf_model(model)
        return model, {name: dequantize_tensor(model.get_parameter(name)).float() for name in names}

    return pack


def mixed(kind: str):
    def pack(make, weights: Weights, names: list[str]) -> tuple[nn.Module, Weights]:
        packed, algorithm = dict(weights), QUANT_ALGOS[kind]
        for name in names:
            tensor = QuantizedTensor.from_float(weights[name], algorithm["comfy_tensor_layout"])
            stored = tensor.state_dict(name)
            packed.pop(name)
            packed |= stored
            packed[f"{name[:-7]}.comfy_quant"] = torch.tensor(
                list(json.dumps({"format": kind}).encode()), dtype=torch.uint8
            )
        model = made(make, packed, bnb_dtype={})
        return model, {name: model.get_parameter(name).dequantize().float() for name in names}

    return pack


PACKINGS = {"fp8": fp8, "Q8_0": gguf_of("Q8_0"), "Q4_0": gguf_of("Q4_0")}
PACKINGS |= {"mixed fp8": mixed("float8_e4m3fn"), "int8": mixed("int8_tensorwise")}
