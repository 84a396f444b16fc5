"""ComfyUI: the nodes, and the bridge from a ModelPatcher to lokr_core. No formula, name table or parsing in here."""

from comfy_api.latest import ComfyExtension, io

from .blocks import LoKrBlockStrengths
from .loader import LoKrLoader, LoKrLoaderModelOnly
from .prompt import LoKrPromptLoader
from .schedule import LoKrSchedule
from .stack import LoKrStack

__all__ = ["LoKrExtension"]


class LoKrExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoKrLoader, LoKrLoaderModelOnly, LoKrStack, LoKrBlockStrengths, LoKrSchedule, LoKrPromptLoader]
