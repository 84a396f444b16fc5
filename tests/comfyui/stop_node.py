"""A node for test_written.py, linked into a server's ``custom_nodes``: the user cancels while a node after it works."""

from __future__ import annotations

import time

import comfy.model_management
import comfy.utils
from comfy_api.latest import ComfyExtension, io

AT = 0
"""The number of the progress call in which the user cancels; 0: in none."""
CALLS: list[tuple[int, int]] = []
"""(how many are done, of how many) of each progress call since the last ``TestStop``."""

_update = comfy.utils.ProgressBar.update_absolute


def update_absolute(bar, value, total=None, *arguments) -> None:
    CALLS.append((value, bar.total))
    _update(bar, value, total, *arguments)
    if len(CALLS) == AT:
        comfy.model_management.interrupt_current_processing()


comfy.utils.ProgressBar.update_absolute = update_absolute


class TestStop(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Int.Input("at"), io.String.Input("text")]
        return io.Schema(
            node_id="TestStop", category="test", inputs=inputs, outputs=[io.String.Output()], not_idempotent=True
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return time.time()

    @classmethod
    def execute(cls, at, text) -> io.NodeOutput:
        """``text``, for what should run after it."""
        global AT
        AT = at
        CALLS.clear()
        return io.NodeOutput(text)


class TestCalls(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestCalls", category="test", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def fingerprint_inputs(cls) -> float:
        return time.time()

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """How many are done, and of how many, in each call since the last ``TestStop``."""
        global AT
        AT = 0
        return io.NodeOutput(ui={"calls": [list(call) for call in CALLS]})


class Nodes(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestStop, TestCalls]


async def comfy_entrypoint() -> Nodes:
    return Nodes()
