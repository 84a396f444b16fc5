"""How to run a pair of twins: inputs, and both models' calling conventions made one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Runner = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True)
class Run:
    """`inputs`: name -> shape (noise) or number; `converter`: diffusers' function for the weights ("": our table,
    proved by the outputs), fed names with `prefix`; `extra`: diffusers' parameters that the table does not name ->
    ComfyUI's; `tolerance`: how far outputs may differ, relatively."""

    inputs: dict[str, Any]
    diffusers: Runner
    comfyui: Runner
    converter: str = ""
    prefix: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    tolerance: float = 5e-5


def pack(x: Any, patch: int = 2) -> Any:
    """(b, c, h, w) -> (b, tokens, c * patch * patch), as Flux and Qwen-Image take it."""
    b, c, h, w = x.shape
    return (
        x.view(b, c, h // patch, patch, w // patch, patch)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(b, h * w // patch**2, c * patch**2)
    )


def unpack(x: Any, h: int, w: int, patch: int = 2) -> Any:
    b, _, c = x.shape
    return (
        x.view(b, h // patch, w // patch, c // patch**2, patch, patch)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(b, c // patch**2, h, w)
    )


def ids(h: int, w: int, axes: int = 3) -> Any:
    """Positions of image tokens: rows on axis 1, columns on axis 2."""
    import torch

    ids = torch.zeros(h, w, axes)
    ids[..., 1] += torch.arange(h)[:, None]
    ids[..., 2] += torch.arange(w)[None]
    return ids.reshape(h * w, axes)


def plain(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], encoder_hidden_states=i["context"], timestep=i["t"], return_dict=False)[0]


def plain_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"])
