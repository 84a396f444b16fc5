"""What an adapter file holds, for a person."""

from ._base_norms import base_norms
from ._heat_map import draw_heat_map
from ._kept import draw_kept, save_kept_picture
from ._metadata import frequent_tags
from ._outline import Outline, outline
from ._summary import inspect_adapter

__all__ = [
    "Outline",
    "base_norms",
    "draw_heat_map",
    "draw_kept",
    "frequent_tags",
    "inspect_adapter",
    "outline",
    "save_kept_picture",
]
