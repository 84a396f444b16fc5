"""Every model of ComfyUI and of diffusers is recorded, and so held by the other tests, or is left out for a reason."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
from pathlib import Path

import pytest

from tests.hosts import ComfyUI
from tests.names import coverage
from tests.names.test_tables import RECORDED
from tests.names.tiny_models import TINY


@pytest.fixture(scope="module")
def supported(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """ComfyUI's supported models -> classes of their models, own and inherited."""
    file = tmp_path_factory.mktemp("supported") / "supported.json"
    done = subprocess.run(
        [str(comfyui.python), str(Path(__file__).parent / "supported.py"), str(file)],
        capture_output=True,
        text=True,
        env=comfyui.environment | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(file.read_text())


def test_every_model_of_comfyui_is_held_or_left_out(supported: dict[str, list[str]]) -> None:
    missing = [name for name in supported if name not in coverage.COMFYUI and name not in coverage.COMFYUI_LEFT_OUT]
    assert not missing, "record a tiny model of them (docs/adding-an-architecture.md), or say why not"
    assert not coverage.COMFYUI.keys() & coverage.COMFYUI_LEFT_OUT.keys()


def test_what_holds_a_model_of_comfyui_is_of_its_class(supported: dict[str, list[str]]) -> None:
    for name, classes in supported.items():
        if name in coverage.COMFYUI:
            arch = coverage.COMFYUI[name]
            assert TINY[arch][1] is not None and TINY[arch][1][0] in classes, f"{name}: {arch} is of another class"
            assert arch in RECORDED, arch


def diffusers_transformers() -> set[str]:
    transformers = pytest.importorskip("diffusers.models.transformers")
    diffusers = pytest.importorskip("diffusers")
    found = set()
    for info in pkgutil.iter_modules(transformers.__path__):
        module = importlib.import_module(f"{transformers.__name__}.{info.name}")
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, diffusers.ModelMixin) and cls.__module__ == module.__name__:
                found.add(name)
    return found


def recorded_of_diffusers() -> set[str]:
    """The classes that rows of `TINY` build; a row that calls a function names it after the class."""
    rows = [TINY[arch][0] for arch in RECORDED if arch in TINY]
    return {coverage.BUILT_BY.get(arch, "") for arch in RECORDED} | {
        row[0] for row in rows if row and isinstance(row[0], str)
    }


def test_every_transformer_of_diffusers_is_held_or_left_out() -> None:
    held = recorded_of_diffusers()
    missing = sorted(diffusers_transformers() - held - coverage.DIFFUSERS_LEFT_OUT.keys())
    assert not missing, "record a tiny model of them (docs/adding-an-architecture.md), or say why not"
    assert not held & coverage.DIFFUSERS_LEFT_OUT.keys()


def test_a_record_without_a_tiny_model_says_whose_names_it_has() -> None:
    assert {arch for arch in RECORDED if arch not in TINY} == coverage.FROM_TRAINERS.keys()


@pytest.mark.parametrize("reasons", [coverage.COMFYUI_LEFT_OUT, coverage.DIFFUSERS_LEFT_OUT, coverage.FROM_TRAINERS])
def test_what_is_left_out_has_a_reason(reasons: dict[str, str]) -> None:
    assert all(len(reason.split()) > 3 for reason in reasons.values())
