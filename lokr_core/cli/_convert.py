"""``lokr convert``: an adapter as another kind, under the names that another program reads."""

from __future__ import annotations

import argparse

from ..display import progress_bar
from ..errors import LoKrValueError
from ..saving import SPELLINGS
from ..tools import CHECKS, INEXACT, TO, Conversion, apply_all, check_with, convert_file, read_updates
from ._command import DTYPES, Commands, Result, add_keep, add_output, check_not_input, check_output, keep_of

MERGED = "merged"


def add_commands(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "convert",
        _convert,
        "Write an adapter as LoRA, full difference, LoKr or merged model, in the names that a program reads.",
        (
            "style.safetensors -o style-lora.safetensors --to lora --names diffusers --energy 0.99",
            "style.safetensors -o style-kohya.safetensors --to lokr --names kohya --model flux1-dev.safetensors",
        ),
        incomplete=lambda found, options: not getattr(found, "written", True),
    )
    parser.add_argument("file", metavar="FILE", help="a LoKr, LoRA, LoHa or full difference (.safetensors)")
    add_output(parser, "the file to write; for PEFT a folder", "as in FILE")
    parser.add_argument("--to", choices=(*TO, MERGED), required=True, help="what OUT is")
    parser.add_argument("--names", choices=SPELLINGS, help="whose names and layout (default: those of FILE)")
    add_keep(parser)
    parser.add_argument("--model", metavar="MODEL", help="the model that FILE is for; only headers are read")
    parser.add_argument(
        "--base", metavar="MODEL", help="the model's weights, for DoRA that the program reads otherwise"
    )
    parser.add_argument("--lossy", action="store_true", help="write OUT even if under 0.9 of the energy is kept")
    parser.add_argument(
        "--inexact", choices=INEXACT, default=INEXACT[0], help="for rows that are no LoKr (default: %(default)s)"
    )
    parser.add_argument("--factor", type=int, action="append", metavar="F", help="of a new LoKr (default: the best)")
    parser.add_argument(
        "--min-energy", type=float, default=0.9, metavar="E", help="else a LoRA stays one (%(default)s)"
    )
    parser.add_argument("--check", choices=CHECKS, help="load OUT with that program, if it is installed; needs --model")


def _convert(options: argparse.Namespace) -> Result:
    check_not_input(options, [options.file, *filter(None, (options.model, options.base))])
    check_output(options)
    dtype = DTYPES.get(options.dtype)
    if options.to == MERGED:
        model = options.base or options.model
        if model is None:
            raise LoKrValueError("The model to merge into is missing", expected="--model MODEL")
        with progress_bar("merging") as progress:
            adapter = read_updates(options.file).adapter
            return apply_all(model, [(adapter, 1.0)], options.output, dtype, progress, options.overwrite)
    kinds = {} if options.factor is None else {"factors": tuple(options.factor)}
    keep = keep_of(options)
    conversion = Conversion(options.to, options.names, keep, options.min_energy, options.inexact, **kinds)
    with progress_bar("converting", " modules") as progress:
        found = convert_file(
            options.file, options.output, conversion, dtype, options.model, options.base, options.lossy, progress
        )
    if options.check and found.written:
        of_denoiser = sum(not made.name.component.startswith("te") for made in found.modules)
        found.notes.append(check_with(options.check, options.output, options.model, of_denoiser))
    return found
