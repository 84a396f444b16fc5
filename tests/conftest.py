"""Which tests run, in how many processes, and the real hosts: used where there are any, skipped loudly where not."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.covering import mark_exhaustive
from tests.hosts import A1111, ComfyUI, find_a1111, find_comfyui

settings.register_profile("exhaustive", max_examples=200, deadline=None)
settings.register_profile("default", max_examples=20, deadline=None)
settings.load_profile("default")

# The tensors are small and the workers share the cores: threads of torch, here and in the processes that tests start,
# would mostly wait for one another (on two busy cores the tests take ten times as long).
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_exhaustive(items)


def pytest_terminal_summary(terminalreporter) -> None:
    """Each reason for which tests were skipped, once, with their number."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"SKIPPED {count}: {reason}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One worker per core for all tests; none for the files, folders or tests that a command names, which start at
    once and can be debugged."""
    return 0 if config.args_source is pytest.Config.ArgsSource.ARGS else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """One worker for all tests of a file, so that its fixtures are made once, and for all tests with one web UI."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith("tests/webui/"):
                return "Forge" if "forge" in nodeid else "A1111"
            if file.startswith("tests/browser/"):  # two halves, each with one page
                return "tests/browser, Vue nodes" if "Vue nodes" in nodeid else "tests/browser"
            return file

    return ByFile(config, log)


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
