"""``lokr extract``: an adapter out of a base checkpoint and a fine-tuned one."""

from __future__ import annotations

import argparse

from ..conversion import Keep
from ..display import progress_bar
from ..inspection import save_kept_picture
from ..saving import UP_DOWN
from ..tools import EXTRACT_FACTORS, OTHERWISE, Extraction, extract
from ._command import DTYPES, Commands, Result, add_keep, add_output, check_not_input, check_output, keep_of

NAMES = (*UP_DOWN, "original")


def add_commands(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add(
        "extract",
        _extract,
        "Write the LoKr that turns a base checkpoint into a fine-tuned one, the nearest for each layer.",
        (
            "base.safetensors tuned.safetensors -o style.safetensors",
            "./sdxl-base ./sdxl-tuned -o style.safetensors --factor 8 --rank 16 --picture kept.png",
        ),
    )
    parser.add_argument("base", metavar="BASE", help="the model before training: a file, shards or a diffusers folder")
    parser.add_argument("tuned", metavar="TUNED", help="the model after training, in the same layout")
    add_output(parser, dtype="fp32")
    parser.add_argument(
        "--factor", type=int, action="append", metavar="F", help=f"of W1, several times (default: {EXTRACT_FACTORS})"
    )
    add_keep(parser, size=False)
    parser.add_argument("--dora", action="store_true", help="look for DoRA (row norms trained apart)")
    parser.add_argument("--min-energy", type=float, default=0.0, metavar="E", help="of a layer as LoKr (%(default)s)")
    parser.add_argument("--otherwise", choices=OTHERWISE, default=OTHERWISE[0], help="below it (default: %(default)s)")
    parser.add_argument("--differences", action="store_true", help="keep biases, norms and embeddings as differences")
    parser.add_argument("--names", choices=NAMES, default="kohya", help="in OUT (default: %(default)s)")
    parser.add_argument("--picture", metavar="PNG", help="write a picture of the energy kept by block")


def _extract(options: argparse.Namespace) -> Result:
    check_not_input(options, [options.base, options.tuned])
    check_output(options)
    keep = keep_of(options)
    factors = EXTRACT_FACTORS if options.factor is None else tuple(options.factor)
    extraction = Extraction(
        options.names,
        factors,
        None if keep == Keep() else keep,
        options.dora,
        options.min_energy,
        options.otherwise,
        options.differences,
    )
    dtype = DTYPES.get(options.dtype)
    with progress_bar("extracting") as progress:
        found = extract(options.base, options.tuned, options.output, extraction, dtype, progress)
    if options.picture:
        save_kept_picture(found.kept(), options.picture)
    return found
