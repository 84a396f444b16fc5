"""What all commands share: results, options of one meaning, and the question before a file is overwritten."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch

from ..conversion import ENERGY, Keep
from ..display import columns, wrapped
from ..errors import LoKrFileError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
EXPERT_HELP = "of an adapter for a model of two experts (Wan 2.2): which one MODEL is (default: as its name tells)"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class Result(Protocol):
    """What a command returns: ``text`` is for a person, ``as_dict`` for a program (ready for JSON)."""

    def text(self) -> str: ...

    def as_dict(self) -> dict: ...


class Commands:
    """The commands of a parser.

    >>> commands = Commands(argparse.ArgumentParser(prog="lokr"))
    >>> commands.add("list", print, "Lists.", ("a.safetensors",)).prog
    'lokr list'
    """

    def __init__(self, parser: argparse.ArgumentParser):
        self._commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        self,
        name: str,
        run: Callable,
        summary: str,
        examples: Iterable[str],
        incomplete: Callable[..., bool] = lambda result, options: False,
    ) -> argparse.ArgumentParser:
        """A command. examples: arguments of it; incomplete: (result, options) -> whether the exit code is 1."""
        lines = wrapped("\n".join(f"  lokr {name} {example}" for example in examples), columns())
        sub = self._commands.add_parser(
            name,
            help=summary,
            description=wrapped(summary, columns()),
            epilog=f"examples:\n{lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run, incomplete=incomplete)
        sub.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
        return sub


def add_output(parser: argparse.ArgumentParser, what: str = "the file to write", dtype: str = "as they are") -> None:
    """Add -o, --overwrite and --dtype."""
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=what)
    parser.add_argument("--overwrite", action="store_true", help="allow OUT to be an existing file")
    parser.add_argument("--dtype", choices=DTYPES, help=f"of the tensors in OUT (default: {dtype})")


def add_keep(parser: argparse.ArgumentParser, size: bool = True) -> None:
    """Add --rank, --energy, --error and --size."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--rank", type=int, metavar="N", help="keep N ranks of each module")
    group.add_argument("--energy", type=float, metavar="E", help=f"keep so much of ‖ΔW‖² (default: {ENERGY})")
    group.add_argument("--error", type=float, metavar="E", help="leave at most so much of ‖ΔW‖ as error")
    if size:
        group.add_argument("--size", type=size_of, metavar="150MB", help="share ranks so that the file has this size")


def keep_of(options: argparse.Namespace) -> Keep:
    """What the options of ``add_keep`` ask for. Raises LoKrValueError if one is out of range."""
    return Keep(options.rank, options.energy, options.error, getattr(options, "size", None))


def size_of(text: str) -> int:
    """A size in bytes: a number and a unit.

    >>> size_of("150MB"), size_of("1.5 GiB")
    (150000000, 1610612736)
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]*)\s*", text)
    try:
        return int(float(match[1]) * _UNITS[match[2].upper()])  # type: ignore[index]
    except (TypeError, ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 150MB or 1.5GiB") from None


def with_strength(text: str) -> tuple[str, float | None]:
    """``FILE`` or ``FILE:STRENGTH``; a colon that no number follows belongs to the name, as in ``C:\\x``.

    >>> with_strength("style.safetensors:0.8"), with_strength("C:/style.safetensors")
    (('style.safetensors', 0.8), ('C:/style.safetensors', None))
    """
    path, _, number = text.rpartition(":")
    try:
        return (path, float(number)) if path else (text, None)
    except ValueError:
        return text, None


def check_output(options: argparse.Namespace, inputs: Iterable[str] = ()) -> None:
    """Raise LoKrFileError if OUT is an input or an existing file and --overwrite is not given."""
    out = Path(options.output)
    if options.overwrite or not out.exists():
        return
    if any(Path(path).exists() and out.samefile(path) for path in inputs):
        return  # the library says which input it is
    raise LoKrFileError("The output exists", file=out, hint="choose another name, or allow it: --overwrite")


def check_not_input(options: argparse.Namespace, inputs: Iterable[str]) -> None:
    """Raise LoKrFileError if OUT is one of the files that are read, which --overwrite allows."""
    out = Path(options.output)
    if not options.overwrite and out.exists() and any(Path(p).exists() and out.samefile(p) for p in inputs):
        raise LoKrFileError(
            "The output is one of the files that are read", file=out, hint="choose another name, or use --overwrite"
        )
