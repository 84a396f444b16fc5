"""What ``in_a1111.py`` measures, in a real Forge on its CPU: ``python -m benchmarks --only forge``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.hosts import find_forge

from .in_a1111 import measure, write_lokr

__all__ = ["run"]


def run() -> list[dict]:
    """One row for each of ``lokr`` and ``lora``, seconds over a run in which nothing but a word changed."""
    host = find_forge()
    if host is None:
        print("no Forge here (FORGE_PATH, FORGE_PYTHON): its part is left out")
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models/Lora/style.safetensors"
        path.parent.mkdir(parents=True)
        modules = write_lokr(next(host.checkpoints.glob("*.safetensors")), path)
        with host.serve(Path(folder), "--no-hashing", "--always-cpu", "--all-in-fp32") as server:
            return [measure(server, path, kind, modules) for kind in ("lokr", "lora")]
