"""``lokr apply`` and ``lokr combine``: adapters merged into a checkpoint, or into one adapter."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..display import progress_bar
from ..errors import LoKrValueError
from ..formats import EXPERTS, load_adapter
from ..saving import save_adapter
from ..tools import EXACT, OVERLAPS, Term, apply_all, combine
from ._command import DTYPES, EXPERT_HELP, Commands, Result, add_output, check_not_input, check_output, with_strength


def add_commands(commands: Commands) -> None:
    """Add both commands."""
    apply = commands.add(
        "apply",
        _apply,
        "Write a checkpoint with adapters merged in, one tensor at a time.",
        (
            "flux1-dev.safetensors style.safetensors -o flux1-style.safetensors -s 0.8",
            "./stable-diffusion-xl style.safetensors:0.8 face.safetensors:0.5 -o ./sdxl-style --strict",
        ),
        incomplete=lambda applied, options: options.strict and not applied.complete,
    )
    apply.add_argument("model", metavar="MODEL", help="a file, shards or a diffusers folder; it is not changed")
    apply.add_argument("adapters", metavar="ADAPTER[:STRENGTH]", nargs="+", help="a LoKr file, style.safetensors:0.8")
    add_output(apply, "the file to write, a folder for a model of several files", "as in MODEL")
    apply.add_argument("-s", "--strength", type=float, help="of a single adapter (default: 1)")
    apply.add_argument("--expert", choices=EXPERTS, default="", help=EXPERT_HELP)
    apply.add_argument("--strict", action="store_true", help="exit code 1 if a module of an adapter found no place")
    apply.add_argument("--overwrite-model", dest="overwrite", action="store_true", help=argparse.SUPPRESS)

    combined = commands.add(
        "combine",
        _combine,
        "Write several adapters, each at its strength, as one file: their sum, not their modules side by side.",
        (
            "style.safetensors:0.8 face.safetensors:0.5 -o both.safetensors",
            'style.safetensors face.safetensors -o small.safetensors --overlap "nearest LoKr"',
        ),
    )
    combined.add_argument("files", metavar="FILE[:STRENGTH]", nargs="+", help="a LoKr file, style.safetensors:0.8")
    add_output(combined)
    combined.add_argument(
        "--overlap", choices=OVERLAPS, default=EXACT, help="for sums that are not a LoKr (default: %(default)s, exact)"
    )


def _apply(options: argparse.Namespace) -> Result:
    named = [with_strength(text) for text in options.adapters]
    if options.strength is not None and (len(named) > 1 or named[0][1] is not None):
        raise LoKrValueError(
            "-s is the strength of a single adapter",
            expected="FILE:STRENGTH for each of several",
            found=f"-s {options.strength:g} and {len(named)} adapters",
            hint="write each adapter's strength behind its name",
        )
    default = 1.0 if options.strength is None else options.strength
    adapters = [(path, default if strength is None else strength) for path, strength in named]
    check_output(options, [options.model, *(path for path, _ in adapters)])
    with progress_bar("merging") as progress:
        dtype = DTYPES.get(options.dtype)
        return apply_all(options.model, adapters, options.output, dtype, progress, options.overwrite, options.expert)


def _combine(options: argparse.Namespace) -> Result:
    named = [with_strength(text) for text in options.files]
    check_not_input(options, [path for path, _ in named])
    check_output(options)
    terms = [Term(load_adapter(Path(path)), 1.0 if strength is None else strength) for path, strength in named]
    combined = combine(terms, options.overlap)
    save_adapter(combined.adapter, options.output, DTYPES.get(options.dtype))
    return combined
