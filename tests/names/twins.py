"""The same random weights in a diffusers model and in ComfyUI's twin, and the same random update in both.

Found by name is not yet right: a swapped half, exchanged query and key, a shifted slice all fit by shape. So both
models run on the same input, before and after a dense random update of EVERY Linear, Conv and norm of the diffusers
model, carried to ComfyUI's weights by `lokr_core.names.aliases`; and with the LoKr files that PEFT and LyCORIS make on
the diffusers model (`trained.py`), read and merged into ComfyUI's twin as a user's would be. Three steps, in two
interpreters, exchanging files in FOLDER/<arch>/, which the last one removes but for result.json (or error.txt):

    python twins.py make FOLDER [ARCH ...]       ComfyUI's: random weights and inputs
    python twins.py diffusers FOLDER [ARCH ...]  diffusers': converts the weights, runs, makes and carries over updates
    python twins.py compare FOLDER [ARCH ...]    ComfyUI's: runs with and without the updates, writes result.json

Weights are converted by diffusers' own single-file converter where it has one. Where `Run.converter` is empty they go
through our table: there the outputs WITHOUT the update, which then cannot agree by a wrong table, are the proof.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

UPDATE = 0.3
"""Size of an update of a weight, relative to the weight."""


def make(arch: str, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from tiny_models import build_comfyui
    from twin_runs import RUNS

    torch.manual_seed(0)
    model = build_comfyui(arch)
    weights = {}
    for name, parameter in model.state_dict().items():
        weights[name] = _random(name, parameter) if parameter.is_floating_point() else parameter
    save_file({name: weight.contiguous().clone() for name, weight in weights.items()}, folder / "weights.safetensors")
    save_file({name: _input(shape) for name, shape in RUNS[arch].inputs.items()}, folder / "inputs.safetensors")


def _random(name: str, like: Any) -> Any:
    """Weights that keep activations in size, biases and vectors small, norms around one."""
    import torch

    if name.endswith("inv_freq"):
        return 10000.0 ** (-torch.arange(len(like)) / len(like))
    noise = torch.randn(like.shape)
    if like.ndim > 1 and name.endswith("weight"):
        return noise / like[0].numel() ** 0.5
    return 0.1 * noise + (1 if name.endswith(("weight", "gamma")) and like.ndim == 1 else 0)


def _input(value: Any) -> Any:
    """A shape stands for normal noise, a number for one value per sample."""
    import torch

    return torch.randn(value) if isinstance(value, tuple) else torch.tensor([float(value)])


def diffusers(arch: str, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from tiny_models import build_diffusers
    from trained import MAKERS
    from twin_runs import RUNS

    from lokr_core.names import aliases

    run = RUNS[arch]
    original = load_file(folder / "weights.safetensors")
    shapes = {name: tuple(weight.shape) for name, weight in original.items()}
    names = aliases(shapes)
    model = build_diffusers(arch).eval()
    _load(model, _converted(run, original, model, names))
    inputs = load_file(folder / "inputs.safetensors")
    with torch.no_grad():
        base = run.diffusers(model, inputs)
        torch.manual_seed(1)
        updates = {name: torch.zeros(shape) for name, shape in shapes.items()}
        kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
        for name, module in model.named_modules():
            if isinstance(module, kinds) or (_is_norm(module) and f"{name}.weight" not in run.extra):
                update = torch.randn(module.weight.shape) * module.weight.std() * UPDATE
                module.weight += update
                for weight, rows, taken, swap in _places(name, names, shapes):
                    part = update[taken]
                    updates[weight][rows] += part.roll(len(part) // 2, 0) if swap else part
        updated = run.diffusers(model, inputs)
        outputs = {"base": base, "updated": updated}
        for maker, make_file in MAKERS.items():
            file, outputs[maker], layers = make_file(model, lambda model: run.diffusers(model, inputs), folder)
            (folder / f"{maker}.json").write_text(json.dumps({"file": str(file), "layers": len(layers)}))
    save_file({name: update for name, update in updates.items() if update.any()}, folder / "updates.safetensors")
    save_file({name: output.contiguous() for name, output in outputs.items()}, folder / "outputs.safetensors")


def _is_norm(module: Any) -> bool:
    return "norm" in type(module).__name__.lower() and getattr(getattr(module, "weight", None), "ndim", 0) == 1


def _places(module: str, names: Any, shapes: Any) -> list[tuple[str, slice, slice, bool]]:
    """(weight of the target, its rows, the module's rows that go there, halves swapped) by the tables."""
    if module not in names:
        return [(f"{module}.weight", slice(None), slice(None), False)]
    places = []
    for slot in names[module]:
        start, length = slot.rows or (0, shapes[f"{slot.module}.{slot.parameter}"][0])
        first, count = slot.source_rows or (0, length)
        rows, taken = slice(start, start + length), slice(first, first + count)
        places.append((f"{slot.module}.{slot.parameter}", rows, taken, slot.swap))
    return places


def _converted(run: Any, original: dict[str, Any], model: Any, names: Any) -> dict[str, Any]:
    """The weights in diffusers' names."""
    import diffusers.loaders.single_file_utils as converters
    import torch

    if run.converter:
        checkpoint = {run.prefix + name: weight.clone() for name, weight in original.items()}
        return getattr(converters, run.converter)(checkpoint, config=dict(model.config))
    shapes = {name: tuple(weight.shape) for name, weight in original.items()}
    weights = {}
    for name in model.state_dict():
        module, _, parameter = name.rpartition(".")
        place = run.extra.get(name, name)
        if place not in original and module in names:
            places = _places(module, names, shapes)
            parts = [_part(original, parameter, weight, rows, swap) for weight, rows, _, swap in places]
            if all(part is not None for part in parts):
                weights[name] = torch.cat(parts)
        elif place in original:
            weights[name] = original[place]
    return weights


def _part(original: dict[str, Any], parameter: str, weight: str, rows: slice, swap: bool) -> Any:
    """The rows of a weight, or of the bias beside it, that a place names; None where there is no such bias."""
    import torch

    target, _, held = weight.rpartition(".")
    if parameter == "bias":
        held = {"gamma": "beta", "in_proj_weight": "in_proj_bias"}.get(held, "bias")
    if f"{target}.{held}" not in original:
        return None
    part = original[f"{target}.{held}"][rows]
    return torch.cat(part.chunk(2)[::-1]) if swap else part


def _load(model: Any, weights: dict[str, Any]) -> None:
    """Load strictly, but for buffers and for biases that ComfyUI's twin leaves out (they are zero there)."""
    import torch

    state = model.state_dict()
    missing = [name for name in state if name not in weights]
    for name in missing:
        if not name.endswith(("bias", "beta")) and name in dict(model.named_parameters()):
            raise KeyError(f"no weight for {name}; not used: {[n for n in weights if n not in state][:5]}")
        if name in dict(model.named_parameters()):
            weights[name] = torch.zeros_like(state[name])
    model.load_state_dict(
        {name: weights[name].reshape(state[name].shape) for name in state if name in weights}, strict=False
    )


def compare(arch: str, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from tiny_models import build_comfyui
    from trained import MAKERS
    from twin_runs import RUNS

    weights, updates = load_file(folder / "weights.safetensors"), load_file(folder / "updates.safetensors")
    inputs, theirs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    model = build_comfyui(arch).eval()
    with torch.no_grad():
        model.load_state_dict(weights)
        base = RUNS[arch].comfyui(model, inputs)
        model.load_state_dict(
            {name: weight + updates[name] if name in updates else weight for name, weight in weights.items()}
        )
        updated = RUNS[arch].comfyui(model, inputs)
        # The same weights, already changed once, with what PEFT and LyCORIS trained on them.
        trained = {maker: _with_file(folder, maker, model, RUNS[arch], inputs) for maker in MAKERS}
    result = {
        "base": _relative(base, theirs["base"]),
        "updated": _relative(updated, theirs["updated"]),
        "change": _relative(updated, base),
        "trained": {maker: _relative(output, theirs[maker]) for maker, output in trained.items()},
        "trained change": {maker: _relative(output, updated) for maker, output in trained.items()},
    }
    (folder / "result.json").write_text(json.dumps(result))
    if not os.environ.get("KEEP_TWINS"):
        for file in folder.rglob("*.safetensors"):
            file.unlink()


def _with_file(folder: Path, maker: str, model: Any, run: Any, inputs: dict[str, Any]) -> Any:
    """The model's output with a trainer's file merged in, every layer of which must find its place."""
    from lokr_core import load_adapter, merge_adapter

    made = json.loads((folder / f"{maker}.json").read_text())
    adapter = load_adapter(made["file"])
    with merge_adapter(model, adapter) as handle:
        if not handle.report.complete or len(handle.report.applied) != made["layers"]:
            raise ValueError(f"{maker}: {made['layers']} layers were trained\n{handle.report.text()}")
        return run.comfyui(model, inputs)


def _relative(a: Any, b: Any) -> float:
    """Size of a - b relative to b; both are of one shape."""
    if a.shape != b.shape:
        raise ValueError(f"outputs of shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return float((a - b).norm() / b.norm())


def main() -> None:
    from twin_runs import RUNS

    step, folder, wanted = sys.argv[1], Path(sys.argv[2]), sys.argv[3:] or list(RUNS)
    if step != "diffusers":
        from record import start_comfyui

        start_comfyui()
    # Behind ComfyUI, whose own ``nodes`` must be found first.
    sys.path.append(str(Path(__file__).parents[2]))
    import torch

    torch.set_num_threads(1)
    todo: Callable[[str, Path], None] = {"make": make, "diffusers": diffusers, "compare": compare}[step]
    for arch in wanted:
        (folder / arch).mkdir(parents=True, exist_ok=True)
        if (folder / arch / "error.txt").exists():
            continue
        try:
            todo(arch, folder / arch)
        except Exception:
            (folder / arch / "error.txt").write_text(f"{step}\n{traceback.format_exc()}")


if __name__ == "__main__":
    main()
