"""ComfyUI: the nodes, and the bridge from a ModelPatcher to lokr_core. No formula, name table or parsing in here."""

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from ..lokr_core import errors
from . import routes
from .blocks import LoKrBlockStrengths
from .convert import LoKrConvert
from .extract import LoKrExtract
from .grid import LoKrGridImage, LoKrStrengthGrid
from .inspect import LoKrInspect
from .loader import LoKrLoader, LoKrLoaderModelOnly
from .prompt import LoKrPromptLoader
from .resize import LoKrResize
from .save import LoKrSave
from .schedule import LoKrSchedule
from .stack import LoKrStack
from .train import LoKrTrain

__all__ = ["LoKrExtension"]


class LoKrExtension(ComfyExtension):
    async def on_load(self) -> None:
        for name in errors.__all__:  # ComfyUI's page begins an error with the full name of its class, path included
            error = getattr(errors, name)
            error.__module__, error.__qualname__ = "builtins", "LoKr"
        if hasattr(PromptServer, "instance"):  # not where ComfyUI is used without its server
            routes.register(PromptServer.instance)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoKrLoader,
            LoKrLoaderModelOnly,
            LoKrStack,
            LoKrPromptLoader,
            LoKrBlockStrengths,
            LoKrSchedule,
            LoKrInspect,
            LoKrStrengthGrid,
            LoKrGridImage,
            LoKrSave,
            LoKrConvert,
            LoKrExtract,
            LoKrResize,
            LoKrTrain,
        ]
