"""``lokr completion``: a script by which a shell completes the command's words."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ..errors import LoKrValueError
from ._command import Commands, Result

SHELLS = ("bash", "zsh", "tcsh")


@dataclass(frozen=True)
class Script:
    """A script for a shell."""

    shell: str
    script: str

    def text(self) -> str:
        """The script."""
        return self.script

    def as_dict(self) -> dict:
        return asdict(self)


def add_commands(commands: Commands, parser_of: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command. parser_of: makes the whole parser."""

    def run(options: argparse.Namespace) -> Result:
        try:
            shtab = importlib.import_module("shtab")
        except ImportError:
            raise LoKrValueError("shtab is not installed", hint="pip install 'comfyui-lokr[completion]'") from None
        return Script(options.shell, shtab.complete(parser_of(), options.shell))

    completion = commands.add(
        "completion",
        run,
        "Print a script by which a shell completes lokr's words; needs shtab.",
        ("bash > ~/.local/share/bash-completion/completions/lokr", "zsh > ~/.zfunc/_lokr"),
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
