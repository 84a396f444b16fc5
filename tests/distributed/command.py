"""``lokr train`` as a script, for one process or several: ``command.py --out OUT [options] MODEL PICTURES``."""

from __future__ import annotations

import sys

from lokr_core.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
