"""Writes tests/names/data/<arch>.json: names and shapes of tiny models, from diffusers and from ComfyUI.

    python record.py diffusers [ARCH ...]      in an environment with diffusers
    python record.py comfyui [ARCH ...]        in ComfyUI's environment, with COMFYUI_PATH set (else ~/comfy/ComfyUI)

Each run fills in its half of every file. Models are built, never run. The files hold
{"diffusers": {module: shape}} for every Linear and Conv module and {"comfyui": {parameter: shape}} for every weight
of two or more axes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

DATA = Path(__file__).parent / "data"


def start_comfyui() -> None:
    """Make ComfyUI importable, on the CPU; called before the first `import comfy`."""
    sys.path.insert(0, os.environ.get("COMFYUI_PATH", os.path.expanduser("~/comfy/ComfyUI")))
    sys.argv = sys.argv[:1]
    import comfy.options  # noqa: F401  the arguments are parsed on the import that follows
    from comfy.cli_args import args

    args.cpu = True


def diffusers_side(arch: str) -> dict[str, list[int]]:
    import tiny_models
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return {name: list(m.weight.shape) for name, m in tiny_models.build_diffusers(arch).named_modules()
            if isinstance(m, kinds)}


def comfyui_side(arch: str) -> dict[str, list[int]]:
    import tiny_models

    return {name: list(p.shape) for name, p in tiny_models.build_comfyui(arch).state_dict().items()
            if p.ndim >= 2 and name.endswith("weight")}


def write(arch: str, side: str, names: dict[str, list[int]]) -> None:
    path = DATA / f"{arch}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    record[side] = names
    rows = [f'  "{key}": {{\n' + ",\n".join(f"    {json.dumps(n)}: {json.dumps(s)}" for n, s in record[key].items())
            + "\n  }" for key in sorted(record)]
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def main() -> None:
    from tiny_models import TINY

    side, wanted = sys.argv[1], sys.argv[2:] or list(TINY)
    if side == "comfyui":
        start_comfyui()
    record = {"diffusers": diffusers_side, "comfyui": comfyui_side}[side]
    for arch in wanted:
        try:
            names = record(arch)
        except Exception as error:
            print(f"{arch}: {type(error).__name__}: {error}")
            continue
        write(arch, side, names)
        print(f"{arch}: {len(names)} on the side of {side}")


if __name__ == "__main__":
    main()
