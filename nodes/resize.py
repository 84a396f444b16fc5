"""The node that writes a LoKr at other ranks."""

from __future__ import annotations

from comfy_api.latest import io

from ..lokr_core.tools import resize_file
from .files import adapter_path
from .inputs import CATEGORY, FileNode, file_input
from .written import (
    DTYPES,
    KEPT,
    REPORT,
    dtype_input,
    energy_input,
    keep_of,
    path_for,
    prefix_input,
    progress_on_node,
    rank_input,
    written,
)


class LoKrResize(FileNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrResize",
            display_name="LoKr Resize",
            category=CATEGORY,
            description="Writes a LoKr file at other ranks: the nearest to it, smaller.",
            search_aliases=["lokr", "resize lora", "shrink lora", "lora rank"],
            inputs=[
                file_input(),
                rank_input("the second factor of each layer"),
                energy_input(),
                prefix_input("loras/resized"),
                dtype_input(),
            ],
            outputs=[REPORT, KEPT],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, lokr_name, rank, energy, filename_prefix, dtype="as in the file") -> io.NodeOutput:
        path = path_for(filename_prefix)
        keep = keep_of(rank, energy)
        found = resize_file(adapter_path(lokr_name), path, keep, DTYPES[dtype], progress_on_node())
        return written(cls, found, path)
