"""Run by ComfyUI-Manager and A1111 after they have fetched this folder.

torch, safetensors and numpy are the hosts' own requirements, so there is hardly ever anything to install. What can be
missing is one of them, on a host that is broken or very old: A1111 is asked to install it, torch apart, whose build is
the host's choice; else it is said here, and not first when a graph runs.
"""

from importlib.util import find_spec

missing = [name for name in ("torch", "safetensors", "numpy") if find_spec(name) is None]
if missing:
    try:
        from launch import run_pip  # A1111 and Forge run this with their own folder on the path
    except ImportError:
        run_pip = None
    for name in missing if run_pip else ():
        if name != "torch":
            run_pip(f"install {name}", f"{name} for LoKr")
    missing = [name for name in missing if name == "torch" or not run_pip]
if missing:
    print(f"comfyui-lokr: this Python lacks {', '.join(missing)}, which the host itself needs; reinstall the host")
