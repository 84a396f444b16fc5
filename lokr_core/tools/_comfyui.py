"""ComfyUI's own loader asked in a process of its interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ..errors import LoKrMatchError, LoKrValueError

_SECONDS = 600


def find_comfyui() -> tuple[Path, Path]:
    """(ComfyUI's folder, its interpreter), by COMFYUI_PATH and COMFYUI_PYTHON or in the home folder.

    Raises LoKrValueError if there is no ComfyUI.
    """
    places = [os.environ.get("COMFYUI_PATH"), Path.home() / "ComfyUI", Path.home() / "comfy" / "ComfyUI"]
    folder = next((Path(p) for p in places if p and (Path(p) / "comfy" / "lora.py").is_file()), None)
    if folder is None:
        raise LoKrValueError(
            "ComfyUI is not installed where it is looked for",
            expected="COMFYUI_PATH, ~/ComfyUI or ~/comfy/ComfyUI",
            found="none of them",
            hint="set COMFYUI_PATH to ComfyUI's folder, COMFYUI_PYTHON to its interpreter",
        )
    inside = [base / name / "bin" / "python" for base in (folder, folder.parent) for name in (".venv", "venv")]
    pythons = [os.environ.get("COMFYUI_PYTHON"), *inside, sys.executable]
    return folder, next(Path(p) for p in pythons if p and Path(p).exists())


def taken_by_comfyui(path: str | os.PathLike, model: str | os.PathLike | None) -> int:
    """How many weights of the file ``model`` ComfyUI's loader changes by the adapter file ``path``.

    Raises LoKrValueError without ComfyUI or such a model, LoKrMatchError if ComfyUI fails.
    """
    if model is None or Path(model).suffix != ".safetensors" or not Path(model).is_file():
        raise LoKrValueError(
            "A check needs the model as ComfyUI reads it", expected="--model FILE.safetensors", found=model
        )
    folder, python = find_comfyui()
    script = Path(__file__).with_name("_in_comfyui.py")
    command = [str(each) for each in (python, script, folder, Path(model).resolve(), Path(path).resolve())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=folder)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LoKrMatchError(f"ComfyUI does not load the file: {reason}", file=path, hint=f"with {python}")
    return int(json.loads(done.stdout.strip().splitlines()[-1]))
