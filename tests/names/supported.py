"""Writes what ComfyUI supports, as JSON: {entry of `supported_models.models`: classes of its model below `comfy.ldm`}.

    python supported.py FILE        in ComfyUI's environment

No model is built: the class is what ComfyUI hands to `BaseModel`; its bases follow it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


class Anything(dict):
    """A configuration or checkpoint that has whatever is asked for."""

    def __missing__(self, key: str) -> Any:
        import torch

        return torch.ones(1, 1)


class Found(Exception):
    """Carries the class of a model out of ComfyUI's constructor."""


def classes_of(entry: Any) -> list[str]:
    """The classes of an entry's model, its own first, as "module below comfy.ldm:class"."""
    config = entry(entry.unet_config | {"hidden_size": 1, "in_channels": 4})
    try:
        config.get_model(Anything())
    except Found as found:
        (model,) = found.args
        bases = (cls for cls in model.__mro__ if cls.__module__.startswith("comfy.ldm."))
        return [f"{cls.__module__.removeprefix('comfy.ldm.')}:{cls.__qualname__}" for cls in bases]
    raise TypeError(f"{entry.__name__} made no model")


def main() -> None:
    from record import start_comfyui

    file = Path(sys.argv[1])
    start_comfyui()
    from comfy import model_base, supported_models
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    def init(self: Any, config: Any, *args: Any, unet_model: Any = UNetModel, **kwargs: Any) -> None:
        raise Found(unet_model)

    model_base.BaseModel.__init__ = init
    file.write_text(json.dumps({entry.__name__: classes_of(entry) for entry in supported_models.models}))


if __name__ == "__main__":
    main()
