"""Real hosts for the tests: used where there are any, skipped loudly where not."""

from __future__ import annotations

import pytest

from tests.hosts import ComfyUI, find_comfyui


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    found = find_comfyui()
    if found is None:
        pytest.skip("NO COMFYUI HERE: set COMFYUI_PATH and COMFYUI_PYTHON; nothing of the ComfyUI nodes is tested")
    return found
