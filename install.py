"""Run by ComfyUI-Manager and A1111 after they have fetched this folder.

There is nothing to install: torch, safetensors and numpy are the hosts' own requirements. What can be missing is one
of them, on a host that is broken or very old; that is said here, and not first when a graph runs.
"""

from importlib.util import find_spec

missing = [name for name in ("torch", "safetensors", "numpy") if find_spec(name) is None]
if missing:
    print(f"comfyui-lokr: this Python lacks {', '.join(missing)}, which the host itself needs; reinstall the host")
