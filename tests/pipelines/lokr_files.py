"""LoKr files for the tiny pipelines, in three namings, and the pipeline with the reference weights W + ΔW."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lokr_core import factorization
from lokr_core._files import save_tensors
from lokr_core.names import aliases
from tests.names.twins import _places as places_of
from tests.pipelines.tiny import PIPELINES

UPDATE = 0.3
"""Size of an update of a weight, relative to the weight."""
NAMINGS = ("kohya", "diffusers", "authors")

_DATA = Path(__file__).parents[1] / "names" / "data"
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Part(NamedTuple):
    """A model of a pipeline in a file: ``prefix`` of its modules' names, ``names`` "original" or "diffusers"."""

    part: str
    prefix: str
    names: str


def parts_in(name: str, naming: str) -> list[Part]:
    """What a file of that naming holds for the pipeline. The authors' have no text encoders."""
    row = PIPELINES[name]
    if naming == "diffusers":
        return [Part(part, f"{part}.", "diffusers") for part in (*row.denoisers, *row.texts)]
    if naming == "authors":
        experts = {"transformer": "high_noise_model.", "transformer_2": "low_noise_model."}
        several = len(row.denoisers) > 1
        return [Part(part, experts[part] if several else "diffusion_model.", "original") for part in row.denoisers]
    texts = [
        Part(part, f"lora_te{part[13:] or ('1' if len(row.texts) > 1 else '')}_", "diffusers") for part in row.texts
    ]
    # kohya's has one denoiser: of two experts the first.
    return [Part(next(iter(row.denoisers)), "lora_unet_", row.kohya), *texts]


def write(name: str, naming: str, pipe: Any, path: Path, seed: int = 2) -> dict[str, dict[str, Tensor]]:
    """Write a random LoKr for ``pipe``. Returns part -> module -> ΔW in the names and rows of the pipeline's model."""
    torch.manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    changes: dict[str, dict[str, Tensor]] = {}
    for one in parts_in(name, naming):
        model = getattr(pipe, one.part)
        changes[one.part] = {}
        for module, shape, rows in _modules(PIPELINES[name].denoisers.get(one.part), one.names, model):
            factors, change = _lokr(shape)
            spelled = one.prefix + (module.replace(".", "_") if one.prefix.startswith("lora_") else module)
            tensors |= {f"{spelled}.{key}": factor for key, factor in factors.items()}
            for place, taken, own, swap in rows:
                weight = model.get_submodule(place).weight
                update = changes[one.part].setdefault(place, torch.zeros_like(weight))
                part = change.reshape(len(change), *weight.shape[1:])[own]
                update[taken] = part.roll(len(part) // 2, 0) if swap else part
    save_tensors(tensors, path)
    return changes


def apply(pipe: Any, changes: dict[str, dict[str, Tensor]], strength: float = 1.0) -> None:
    """Add the changes to the weights of ``pipe``: the reference."""
    for part, modules in changes.items():
        for module, change in modules.items():
            getattr(pipe, part).get_submodule(module).weight.data += strength * change


Rows = tuple[str, slice, slice, bool]
"""(the model's module, its rows, the file's module's rows that go there, halves swapped)"""


def _modules(arch: str | None, names: str, model: nn.Module) -> Iterator[tuple[str, tuple[int, ...], list[Rows]]]:
    """(module, shape, where its rows go) in ``names``."""
    own = {name: m.weight.shape for name, m in model.named_modules() if isinstance(m, _KINDS)}
    if names == "diffusers" or arch is None:
        for module, shape in own.items():
            yield module, shape, [(module, slice(None), slice(None), False)]
        return
    data = json.loads((_DATA / f"{arch}.json").read_text())
    shapes = {name: tuple(shape) for name, shape in (data.get("comfyui") or data["original"]).items()}
    by_module: dict[str, list[Rows]] = {}
    table = aliases(shapes)
    for place in own:
        for weight, rows, taken, swap in places_of(place, table, shapes):
            by_module.setdefault(weight.removesuffix(".weight"), []).append((place, taken, rows, swap))
    for module, rows in by_module.items():
        if f"{module}.weight" in shapes:
            yield module, shapes[f"{module}.weight"], rows


def _lokr(shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """A random LoKr of that shape: its tensors, and ΔW."""
    out, into, *kernel = shape
    (a, _), (b, _) = factorization(out, 4), factorization(into, 4)
    w1, w2 = torch.randn(a, b), torch.randn(out // a, into // b, *kernel)
    w1 *= UPDATE * (w2[0].numel() * b) ** -0.5  # of a row: the weights' rows have norm 1
    change = torch.kron(w1.reshape(a, b, *(1 for _ in kernel)), w2)
    return {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(1e10)}, change
