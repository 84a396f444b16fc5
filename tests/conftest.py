"""Real hosts for the tests: used where there are any, skipped loudly where not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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


@pytest.fixture(scope="session")
def browser():
    """One for all tests: Playwright's synchronous interface can be open only once in a process."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="NO PLAYWRIGHT HERE: pip install playwright; no page is tested"
    )
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or not Path(chromium).exists():
        pytest.skip("NO CHROMIUM HERE: set CHROMIUM to one; no page is tested")
    from tests.browser.front import ARGUMENTS

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()
