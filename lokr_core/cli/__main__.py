"""``python -m lokr_core.cli`` is the command ``lokr``."""

import sys

from ._command import main

sys.exit(main())
