"""Writes tests/names/data/: names and shapes of tiny models, from diffusers or transformers and from ComfyUI.

    python record.py diffusers [ARCH ...]      in an environment with diffusers
    python record.py comfyui [ARCH ...]        in ComfyUI's environment, with COMFYUI_PATH set (else ~/comfy/ComfyUI)

Each run fills in its half of every file: data/<arch>.json for denoisers, data/text/<arch>.json for text encoders.
Models are built, never run. The files hold {"diffusers": {module: shape}} for every Linear and Conv module (of
transformers' model for text encoders) and {"comfyui": {parameter: shape}} for every weight of two or more axes, and
the norms of both sides apart, as "diffusers_norms" and "comfyui_norms". A half is missing where diffusers or ComfyUI
has no such model. {"original": ...} is a checkpoint that ComfyUI can't load, in
its authors' names, written by hand (test_tables shows that diffusers' converter takes it).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
NORMS = ("weight", "scale", "gamma")
"""What a norm's weight is called."""


def start_comfyui() -> None:
    """Make ComfyUI importable, on the CPU; called before the first `import comfy`."""
    sys.path.insert(0, os.environ.get("COMFYUI_PATH", os.path.expanduser("~/comfy/ComfyUI")))
    sys.argv = sys.argv[:1]
    import comfy.options  # noqa: F401  the arguments are parsed on the import that follows
    from comfy.cli_args import args

    args.cpu = True


def modules_of(model: Any) -> dict[str, list[int]]:
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    found = {name: list(m.weight.shape) for name, m in model.named_modules() if isinstance(m, kinds)}
    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            own = dict(module.named_parameters(recurse=False))
            shapes = [list(own[key].shape) for key in NORMS if key in own and own[key].ndim == 1]
            found |= dict.fromkeys([name] if shapes else [], *shapes)
    return found


def weights_of(model: Any) -> dict[str, list[int]]:
    return {
        name: list(p.shape)
        for name, p in model.state_dict().items()
        if (p.ndim >= 2 and name.endswith("weight")) or (p.ndim == 1 and name.rpartition(".")[2] in NORMS)
    }


def write(path: Path, side: str, names: dict[str, list[int]]) -> None:
    record = json.loads(path.read_text()) if path.exists() else {}
    record[side] = names
    if not names:
        del record[side]
    rows = [
        f'  "{key}": {{\n'
        + ",\n".join(f"    {json.dumps(n)}: {json.dumps(s)}" for n, s in record[key].items())
        + "\n  }"
        for key in sorted(record)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def main() -> None:
    side, wanted = sys.argv[1], sys.argv[2:]
    if side == "comfyui":
        start_comfyui()
    from tiny_models import TINY, build_comfyui, build_diffusers
    from tiny_text import TINY_TEXT, build_comfyui_text, build_transformers

    names_of = {"diffusers": modules_of, "comfyui": weights_of}[side]
    build = {"diffusers": build_diffusers, "comfyui": build_comfyui}[side]
    build_text = {"diffusers": build_transformers, "comfyui": build_comfyui_text}[side]
    for arch in wanted or [*TINY, *TINY_TEXT]:
        if arch in TINY and TINY[arch][0 if side == "diffusers" else 1] is None:
            continue  # it has no such model
        names = names_of(build(arch) if arch in TINY else build_text(arch))
        path = DATA / ("" if arch in TINY else "text") / f"{arch}.json"
        write(path, side, {name: shape for name, shape in names.items() if len(shape) > 1})
        write(path, f"{side}_norms", {name: shape for name, shape in names.items() if len(shape) == 1})
        print(f"{arch}: {len(names)} on the side of {side}")


if __name__ == "__main__":
    main()
