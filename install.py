"""ComfyUI-Manager and A1111 run this after they have fetched this folder.

The hosts require all of these packages themselves, so there is hardly ever anything to install. On a broken or very old
host, A1111 is asked to install what is missing, except torch, whose build is the host's choice; any other host is named
what is missing now rather than when a graph runs.
"""

from importlib.util import find_spec

PACKAGES = {"torch": "torch", "safetensors": "safetensors", "numpy": "numpy", "PIL": "pillow", "tqdm": "tqdm"}

missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
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
