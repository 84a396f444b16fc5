"""The command line's ``--lokr-dir``, read by A1111 and Forge before they start."""

from modules.paths_internal import normalized_filepath


def preload(parser):
    parser.add_argument(
        "--lokr-dir",
        type=normalized_filepath,
        help="Path to directory with LoKr adapters (default: models/LoKr).",
        default=None,
    )
