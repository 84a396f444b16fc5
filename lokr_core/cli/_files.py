"""``lokr resize``, ``lokr split`` and ``lokr join``: an adapter at other ranks, or cut by the models that it is for."""

from __future__ import annotations

import argparse

from ..display import progress_bar
from ..tools import PARTS, join_files, resize_file, split_file
from ._command import DTYPES, Commands, Result, add_keep, add_output, check_not_input, check_output, keep_of


def add_commands(commands: Commands) -> None:
    """Add the three commands."""
    resize = commands.add(
        "resize",
        _resize,
        "Write a LoKr at other ranks: the nearest of its factors, by number, energy, error or the file's size.",
        ("style.safetensors -o small.safetensors --rank 4", "style.safetensors -o small.safetensors --size 20MB"),
    )
    resize.add_argument("file", metavar="FILE", help="a LoKr file (.safetensors)")
    add_output(resize, dtype="as in FILE")
    add_keep(resize)

    split = commands.add(
        "split",
        lambda options: split_file(options.file, options.out, options.overwrite),
        "Write a file for each model of an adapter: the experts of Wan 2.2, the denoiser, each text encoder.",
        ("wan22-both.safetensors", "sdxl-with-clip.safetensors --out ./parts"),
    )
    split.add_argument("file", metavar="FILE", help="an adapter of several models (.safetensors)")
    split.add_argument("--out", metavar="DIR", help="folder for the files (default: that of FILE)")
    split.add_argument("--overwrite", action="store_true", help="allow files that exist")

    join = commands.add(
        "join",
        _join,
        "Write adapters of different models side by side as one file.",
        (
            "high.safetensors low.safetensors --as high,low -o both.safetensors",
            "unet.safetensors clip.safetensors --as model,te1 -o whole.safetensors",
        ),
    )
    join.add_argument("files", metavar="FILE", nargs="+", help="adapters (.safetensors)")
    join.add_argument("--as", dest="parts", required=True, metavar="PART,PART", help=f"of each: {', '.join(PARTS)}")
    join.add_argument("-o", "--output", metavar="OUT", required=True, help="the file to write")
    join.add_argument("--overwrite", action="store_true", help="allow OUT to be an existing file")


def _resize(options: argparse.Namespace) -> Result:
    check_not_input(options, [options.file])
    check_output(options)
    with progress_bar("resizing", " modules") as progress:
        return resize_file(options.file, options.output, keep_of(options), DTYPES.get(options.dtype), progress)


def _join(options: argparse.Namespace) -> Result:
    check_not_input(options, options.files)
    check_output(options)
    return join_files(options.files, options.parts.split(","), options.output)
