"""The tree of rooms, guarded by import-linter: the contracts are in ``.importlinter``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="NO IMPORT-LINTER HERE: pip install import-linter")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the extension, in a folder of the name that the contracts have for it."""
    copy = tmp_path / "comfyui_lokr"
    copy.mkdir()
    for name in ("__init__.py", ".importlinter"):
        shutil.copy(PROJECT / name, copy / name)
    for name in ("lokr_core", "nodes", "webui"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    command = [sys.executable, "-c", code, str(tree / ".importlinter"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree.parent), str(tree)]), "COLUMNS": "200"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120)


def test_every_contract_is_kept(tree):
    done = lint(tree)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "file, bad, contract",
    [
        ("nodes/files.py", "from ..lokr_core.kronecker._add import add_kron_", "private file"),
        ("nodes/files.py", "from ..webui import tags", "know nothing of each other"),
        ("webui/tags.py", "from lokr_core._layers import kind_of", "private file"),
        ("lokr_core/kronecker/_factor.py", "from ..merge import merge_adapter", "downward only"),
        ("lokr_core/merge.py", "from .kronecker._add import add_kron_", "private file"),
        ("lokr_core/adapter.py", "from ..nodes import files", "knows no host"),
        ("lokr_core/adapter.py", "import folder_paths", "knows no host"),
        ("lokr_core/names/_words.py", "from ._display import guesses", "No circles"),
    ],
)
def test_a_bad_import_breaks_its_contract(tree, file, bad, contract):
    path = tree / file
    text = path.read_text(encoding="utf-8")
    marker = "from __future__ import annotations\n"
    assert marker in text
    path.write_text(text.replace(marker, f"{marker}\n{bad}\n", 1), encoding="utf-8")
    done = lint(tree)
    broken = [line for line in done.stdout.splitlines() if line.endswith("BROKEN")]
    assert done.returncode == 1 and any(contract in line for line in broken), done.stdout + done.stderr


def test_a_new_room_has_to_be_given_its_place(tree):
    (tree / "lokr_core" / "attic.py").write_text("")
    assert lint(tree).returncode == 1
