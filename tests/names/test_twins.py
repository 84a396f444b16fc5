"""Right, not only found: diffusers' model and ComfyUI's twin agree before and after an update that went by our names.

Needs a ComfyUI, and diffusers here. `twins.py` says what is done.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import ComfyUI
from tests.names import twin_runs

HERE = Path(__file__).parent

CHANGE = 1e-2
"""An update must show in the outputs by more than this, relatively."""


RUNS = {arch: run.tolerance for arch, run in twin_runs.RUNS.items()}
"""Architecture -> how far its twins' outputs may differ."""


@pytest.fixture(scope="module")
def results(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of twins.py's files, all architectures done."""
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed here")
    out = tmp_path_factory.mktemp("twins")
    for interpreter, step in ((comfyui.python, "make"), (sys.executable, "diffusers"), (comfyui.python, "compare")):
        done = subprocess.run(
            [str(interpreter), str(HERE / "twins.py"), step, str(out)],
            capture_output=True,
            text=True,
            env=comfyui.environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == 0, f"twins.py {step}:\n{done.stderr[-4000:]}"
    return out


@pytest.mark.parametrize("arch", RUNS)
def test_an_update_by_our_names_does_the_same_in_both_twins(arch: str, results: Path) -> None:
    error = results / arch / "error.txt"
    assert not error.exists(), error.read_text()
    result = json.loads((results / arch / "result.json").read_text())
    assert result["base"] <= RUNS[arch], "the twins differ without an update: the weights were converted wrongly"
    assert result["change"] > CHANGE, "the update does not show"
    assert result["updated"] <= RUNS[arch], "the update went to other places in ComfyUI's twin"


@pytest.mark.parametrize("maker", ["peft", "lycoris"])
@pytest.mark.parametrize("arch", RUNS)
def test_a_trainers_file_does_the_same_in_comfyuis_twin(arch: str, maker: str, results: Path) -> None:
    error = results / arch / "error.txt"
    assert not error.exists(), error.read_text()
    result = json.loads((results / arch / "result.json").read_text())
    assert result["trained change"][maker] > CHANGE, "the adapter does not show"
    assert result["trained"][maker] <= max(RUNS[arch], 1e-4), "the adapter does something else than in training"
