"""What a script measures on the layers of a host, in the host's own interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.hosts import A1111

HERE = Path(__file__).parent


def measured_by(script: str, found: A1111 | None, skipped: str) -> dict:
    """The table that ``script``, beside this file, prints; skips with the reason ``skipped`` if there is no host."""
    if found is None:
        pytest.skip(skipped)
    environment = {**os.environ, "TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [found.python, HERE / script]
    done = subprocess.run(command, cwd=found.path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])
