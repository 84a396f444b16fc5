"""What an adapter file holds, for a person."""

from ._base_models import base_model_spelled, base_model_spellings
from ._base_norms import base_norms
from ._folder import inspect_folder, is_adapter_folder
from ._heat_map import draw_heat_map
from ._index import Brief, Index, brief
from ._kept import draw_kept, save_kept_picture
from ._metadata import frequent_tags
from ._outline import Outline, outline
from ._sidecar import Sidecar, read_sidecars, sidecars_of, words_of
from ._summary import inspect_adapter

__all__ = [
    "Brief",
    "Index",
    "Outline",
    "Sidecar",
    "base_model_spelled",
    "base_model_spellings",
    "base_norms",
    "brief",
    "draw_heat_map",
    "draw_kept",
    "frequent_tags",
    "inspect_adapter",
    "inspect_folder",
    "is_adapter_folder",
    "outline",
    "read_sidecars",
    "save_kept_picture",
    "sidecars_of",
    "words_of",
]
