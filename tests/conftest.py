"""Real hosts for the tests: used where there are any, skipped loudly where not."""

from __future__ import annotations

import pytest

from tests.hosts import A1111, ComfyUI, find_a1111, find_comfyui


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    found = find_comfyui()
    if found is None:
        pytest.skip("NO COMFYUI HERE: set COMFYUI_PATH and COMFYUI_PYTHON; nothing of the ComfyUI nodes is tested")
    return found


@pytest.fixture(scope="session")
def a1111() -> A1111:
    found = find_a1111()
    if found is None:
        pytest.skip("NO A1111 HERE: set A1111_PATH and A1111_PYTHON, with a checkpoint in models/Stable-diffusion")
    return found
