"""The same as ``in_a1111.py``, in a real Forge on its CPU: ``python -m benchmarks --only forge``."""

from __future__ import annotations

from tests.hosts import find_forge

from .in_a1111 import measured_in

__all__ = ["run"]


def run() -> list[dict]:
    host = find_forge()
    if host is None:
        print("no Forge here (FORGE_PATH, FORGE_PYTHON): its part is left out")
        return []
    return measured_in(host, "--always-cpu", "--all-in-fp32")
