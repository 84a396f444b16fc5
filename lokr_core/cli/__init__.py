"""The command ``lokr``: inspect, check, apply, combine, convert and train LoKr files."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..demo import run_demo
from ..display import columns, progress_bar, wrapped
from ..errors import LoKrError
from ..tools import version
from . import _completion, _convert, _extract, _files, _look, _merge
from ._command import Commands, Result
from ._train import add_train_arguments, train_on_pictures
from ._training import add_arguments, run

__all__ = ["add_arguments", "main", "run"]


OK, INCOMPLETE, ERROR, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (the process' own if None) and return its exit code.

    0: done; 1: not all that was asked for, such as modules that do not match; 2: an error, printed on stderr; 130:
    interrupted.
    """
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # not every terminal can print × and ‖
    try:
        with _terminate_as_interrupt():
            result = options.run(options)
            if result is not None:  # None in all but the first of several processes
                _show(result, options)
                return INCOMPLETE if options.incomplete(result, options) else OK
            return OK
    except LoKrError as error:
        print(wrapped(f"lokr: {error}", columns()), file=sys.stderr)
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
    commands = Commands(parser)
    for add_commands in (m.add_commands for m in (_look, _merge, _convert, _extract, _files)):
        add_commands(commands)
    train = commands.add(
        "train",
        train_on_pictures,
        "Train a LoKr for Stable Diffusion 1, 2, XL or 3, or Flux.1, on a folder of pictures.",
        (
            'sdxl/ pictures/ --precision bf16 --checkpointing --sample "a photo of sks dog"',
            "flux1-dev.safetensors pictures/ --config flux/ --precision bf16 --checkpointing -o my-style",
        ),
    )
    add_train_arguments(train)
    demo = commands.add(
        "demo",
        _demo,
        "Make a tiny model and a LoKr for it, and see strengths at work. Downloads nothing.",
        ("", "--out my-demo"),
    )
    demo.add_argument("--out", metavar="DIR", default="lokr-demo", help="folder for its files (default: %(default)s)")
    _completion.add_commands(commands, _parser)
    return parser


def _demo(options: argparse.Namespace) -> Result:
    # The model is too small to gain from a second thread, which on a busy machine only waits.
    torch.set_num_threads(1)
    with progress_bar("training", " steps") as progress:
        return run_demo(options.out, progress)


def _show(result: Result, options: argparse.Namespace) -> None:
    print(json.dumps(result.as_dict(), indent=2) if options.json else wrapped(result.text(), columns()), flush=True)
    if hasattr(options, "output") and not options.json and getattr(result, "written", True):
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
