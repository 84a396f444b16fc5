"""The scripts' types, lint and format, where `npm install` was run."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.hosts import PROJECT


def test_types_lint_and_format():
    if not (PROJECT / "node_modules" / ".bin" / "tsc").exists():
        pytest.skip("NO TYPESCRIPT HERE: run npm install; the scripts of web/ are not type-checked")
    done = subprocess.run(["npm", "run", "check"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_nothing_is_asked_of_another_host():
    """No address with a host in scripts or styles, but the namespace of SVG, which is a name."""
    for path in [*PROJECT.glob("web/*.js"), *PROJECT.glob("web/*.css")]:
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text(encoding="utf-8"))
        assert not [address for address in found if address != "http://www.w3.org/2000/svg"], path
