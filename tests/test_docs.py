"""The documents: their code runs as it stands there, their links lead somewhere, their reference is the code's."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import lokr_core
from lokr_core import Adapter, Factor, LoKrWeights, save_adapter
from lokr_core.cli import main as lokr
from lokr_core.strengths import BlockStrengths
from tests.hosts import PROJECT

PAGES = sorted(path for folder in (".", "docs", "web/docs", "examples") for path in (PROJECT / folder).glob("*.md"))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks_of(language: str) -> list:
    """(page, code) of all fenced blocks in that language."""
    found = [(page, *match.groups()) for page in PAGES for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [pytest.param(page, code, id=page.name) for page, kind, code in found if kind == language]


class Attention(torch.nn.Module):
    """A model with the names of diffusers' attention."""

    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(8, 8) for _ in range(3))
        self.to_out = torch.nn.Sequential(torch.nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_out(torch.softmax(self.to_q(x) @ self.to_k(x).T, -1) @ self.to_v(x))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the examples run: a model, a few adapters for it, and files of the names that the documents use."""
    torch.manual_seed(0)
    model = Attention()
    for name in ("style", "other", "someones"):
        weights = {
            module: LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(4, 4))) for module in ("to_q", "to_out.0")
        }
        save_adapter(Adapter(weights), tmp_path / f"{name}.safetensors")
    save_file(model.state_dict(), str(tmp_path / "model.safetensors"))
    monkeypatch.chdir(tmp_path)
    return model


@pytest.mark.parametrize(("page", "code"), blocks_of("python"))
def test_python_runs_as_it_stands_there(page, code, folder, tmp_path):
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    names = {"torch": torch, "lokr_core": lokr_core, "model": folder, "unet": folder, "latent": torch.randn(1, 8)}
    names["pipe"] = SimpleNamespace(components={"scheduler": None, "transformer": folder})
    runpy.run_path(str(tmp_path / "example.py"), names)


# Commands that need the network or much time, or that other tests run (tests/demo, tests/training, tests/distributed).
ELSEWHERE = ("pip install", "pytest", "python -m benchmarks", "python docs/", "lokr demo", "lokr train", "accelerate")


@pytest.mark.parametrize(("page", "code"), blocks_of("") + blocks_of("sh"))
def test_commands_run_as_they_stand_there(page, code, folder, capsys):
    if page.name.startswith("LoKr"):  # what is typed into a node
        assert BlockStrengths.parse(code).entries
        return
    for line in code.splitlines():
        for command in line.split("#")[0].split("&&"):
            command = command.strip()
            if command and not command.startswith(ELSEWHERE):
                assert command.startswith("lokr "), f"{page.name}: what is {command!r}?"
                assert lokr(shlex.split(command)[1:]) in (0, 1), f"{command}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


_FIGURE = re.compile(r"\d[\d,]*\.\d+")


def written(number: str, values: list[float]) -> bool:
    """Whether ``number`` is one of ``values`` rounded to its digits."""
    digits = len(number.partition(".")[2])
    return any(f"{value:.{digits}f}" == number for value in values)


def numbers_in(found) -> list[float]:
    """Every number in a JSON value."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        return [number for entry in found for number in numbers_in(entry)]
    return [float(found)] if isinstance(found, (int, float)) and not isinstance(found, bool) else []


def test_the_figures_of_the_readme_are_those_of_the_results():
    results = json.loads((PROJECT / "benchmarks/results/results.json").read_text(encoding="utf-8"))
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    checked = 0
    for line in readme.splitlines():
        part = re.search(r"`python -m benchmarks --only ([\w-]+)`", line)
        for figure in _FIGURE.findall(" ".join(line.split("|")[2:4])) if part else ():
            assert written(figure, numbers_in(results[part[1]]["rows"])), f"{figure} of: {line}"
            checked += 1
    assert checked >= 10


def test_the_reference_is_what_the_docstrings_say():
    spec = importlib.util.spec_from_file_location("library_page", PROJECT / "docs" / "library.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {path: path.read_text(encoding="utf-8") for path in [module.INDEX, *module.FOLDER.glob("*.md")]}
    assert found == module.pages(), "run: python docs/library.py"


def test_a_wheel_holds_the_library_and_the_command_alone(tmp_path):
    code = (
        "import setuptools, sys; sys.argv = ['setup.py', 'egg_info', '--egg-base', sys.argv[1]]; "
        "from setuptools import setup; d = setup(); print(sorted({p.partition('.')[0] for p in d.packages}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "['lokr_core']", done.stderr[-2000:]


DESIGN = PROJECT / "docs/design.md"


def test_the_floors_in_design_are_those_that_import_linter_checks():
    rules = configparser.ConfigParser()
    rules.read(PROJECT / ".importlinter", encoding="utf-8")
    layers = rules["importlinter:contract:rooms"]["layers"].split("\n")
    picture = DESIGN.read_text(encoding="utf-8").partition("\nlokr_core ")[2].partition("```")[0]
    floors = [set(line.split()) for line in picture.splitlines() if line.strip()]
    assert floors == [set(layer.split(" | ")) for layer in layers if layer]


def test_the_files_in_design_exist():
    names = re.findall(r"`([\w./]+\.(?:py|js))`", DESIGN.read_text(encoding="utf-8"))
    assert names and [n for n in names if not any((PROJECT / f / n).is_file() for f in ("lokr_core", "."))] == []
