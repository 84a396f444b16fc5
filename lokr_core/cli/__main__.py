"""``python -m lokr_core.cli`` is the command ``lokr``."""

import sys

from . import main

sys.exit(main())
