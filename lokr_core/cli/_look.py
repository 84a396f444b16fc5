"""``lokr inspect`` and ``lokr check``: what a file holds, and what of it a checkpoint takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..formats import EXPERTS, load_adapter
from ..inspection import inspect_adapter, inspect_folder, is_adapter_folder
from ..tools import check_file
from ._command import EXPERT_HELP, Commands, Result


def add_commands(commands: Commands) -> None:
    """Add both commands."""
    inspect = commands.add(
        "inspect",
        _inspect,
        "Show what an adapter file holds and what looks wrong in it, or a table of a folder's files.",
        ("style.safetensors", "./models/loras"),
    )
    inspect.add_argument("file", metavar="FILE", help="a LoKr file (.safetensors), or a folder of files")

    check = commands.add(
        "check",
        _check,
        "Show which modules of an adapter match a checkpoint; exit code 1 if not all do.",
        ("flux1-dev.safetensors style.safetensors", "./stable-diffusion-xl style.safetensors --json"),
        incomplete=lambda report, options: not report.complete,
    )
    check.add_argument("model", metavar="MODEL", help="the checkpoint, a file or a folder; only headers are read")
    check.add_argument("adapter", metavar="ADAPTER", help="a LoKr file (.safetensors)")
    check.add_argument("--expert", choices=EXPERTS, default="", help=EXPERT_HELP)


def _inspect(options: argparse.Namespace) -> Result:
    if Path(options.file).is_dir() and not is_adapter_folder(options.file):
        return inspect_folder(options.file)
    return inspect_adapter(load_adapter(options.file))


def _check(options: argparse.Namespace) -> Result:
    return check_file(options.model, options.adapter, options.expert)
