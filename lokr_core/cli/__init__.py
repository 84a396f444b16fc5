"""The command ``lokr``: inspect, check, apply, combine and train LoKr files."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from ..demo import run_demo
from ..display import progress_bar
from ..errors import LoKrError
from ..formats import load_adapter
from ..inspection import inspect_adapter
from ..saving import save_adapter
from ..tools import EXACT, OVERLAPS, Term, apply_to_file, check_file, combine, version
from ._train import add_train_arguments, train_on_pictures
from ._training import add_arguments, run

__all__ = ["add_arguments", "main", "run"]


class Result(Protocol):
    """What a command returns: ``text`` is for a person, ``as_dict`` for a program (ready for JSON)."""

    def text(self) -> str: ...

    def as_dict(self) -> dict: ...


OK, INCOMPLETE, ERROR, INTERRUPTED = 0, 1, 2, 130
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (the process' own if None) and return its exit code.

    0: done; 1: ``check`` found modules that do not match; 2: an error, printed on stderr; 130: interrupted.
    """
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # not every terminal can print × and ‖
    try:
        with _terminate_as_interrupt():
            result = options.run(options)
            if result is not None:  # None in all but the first of several processes
                _show(result, options)
            return INCOMPLETE if options.run is _check and not result.complete else OK
    except LoKrError as error:
        print(f"lokr: {error}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("lokr: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `lokr inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lokr", description="LoKr (LyCORIS Kronecker) adapter files.")
    parser.add_argument("--version", action="version", version=f"lokr {version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
        return sub

    inspect = command("inspect", _inspect, "Show what an adapter file holds and what looks wrong in it.")
    inspect.add_argument("file", metavar="FILE", help="a LoKr file (.safetensors)")

    apply = command("apply", _apply, "Write a checkpoint with an adapter merged in, one tensor at a time.")
    apply.add_argument("model", metavar="MODEL", help="the checkpoint (.safetensors); it is not changed")
    apply.add_argument("adapter", metavar="ADAPTER", help="a LoKr file (.safetensors)")
    apply.add_argument("-o", "--output", metavar="OUT", required=True, help="the file to write")
    apply.add_argument("-s", "--strength", type=float, default=1.0, help="multiplies the update (default: 1)")
    apply.add_argument("--dtype", choices=DTYPES, help="of the floating tensors in OUT (default: as in MODEL)")
    apply.add_argument("--overwrite-model", action="store_true", help="allow OUT to be MODEL itself")

    check = command("check", _check, "Show which modules of an adapter match a checkpoint; exit code 1 if not all do.")
    check.add_argument("model", metavar="MODEL", help="the checkpoint (.safetensors); only its header is read")
    check.add_argument("adapter", metavar="ADAPTER", help="a LoKr file (.safetensors)")

    train = command(
        "train", train_on_pictures, "Train a LoKr on a folder of pictures, for a small model made on the spot."
    )
    add_train_arguments(train)

    combine = command("combine", _combine, "Write several adapters, each at its strength, as one file.")
    combine.add_argument("files", metavar="FILE[:STRENGTH]", nargs="+", help="a LoKr file, style.safetensors:0.8")
    combine.add_argument("-o", "--output", metavar="OUT", required=True, help="the file to write")
    combine.add_argument(
        "--overlap", choices=OVERLAPS, default=EXACT, help="for sums that are not a LoKr (default: %(default)s, exact)"
    )
    combine.add_argument("--dtype", choices=DTYPES, help="of the tensors in OUT (default: as they are)")

    demo = command("demo", _demo, "Make a tiny model and a LoKr for it, and see strengths at work. Downloads nothing.")
    demo.add_argument("--out", metavar="DIR", default="lokr-demo", help="folder for its files (default: %(default)s)")
    return parser


def _inspect(options: argparse.Namespace) -> Result:
    return inspect_adapter(load_adapter(options.file))


def _apply(options: argparse.Namespace) -> Result:
    with progress_bar("merging") as progress:
        files, dtype = (options.model, options.adapter, options.output), DTYPES.get(options.dtype)
        return apply_to_file(*files, options.strength, dtype, progress, options.overwrite_model)


def _check(options: argparse.Namespace) -> Result:
    return check_file(options.model, options.adapter)


def _combine(options: argparse.Namespace) -> Result:
    combined = combine([_term(text) for text in options.files], options.overlap)
    save_adapter(combined.adapter, options.output, DTYPES.get(options.dtype))
    return combined


def _term(text: str) -> Term:
    """``FILE`` or ``FILE:STRENGTH``; a colon that no number follows belongs to the name, as in ``C:\\x``."""
    path, _, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        path, strength = text, 1.0
    return Term(load_adapter(path or text), strength)


def _demo(options: argparse.Namespace) -> Result:
    # The model is too small to gain from a second thread, which on a busy machine only waits.
    torch.set_num_threads(1)
    with progress_bar("training", " steps") as progress:
        return run_demo(options.out, progress)


def _show(result: Result, options: argparse.Namespace) -> None:
    print(json.dumps(result.as_dict(), indent=2) if options.json else result.text(), flush=True)
    if hasattr(options, "output") and not options.json:
        print(f"written: {options.output}")


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
