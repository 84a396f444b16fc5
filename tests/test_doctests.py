"""The examples in lokr_core's docstrings run as they are written."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import lokr_core

MODULES = [info.name for info in pkgutil.walk_packages(lokr_core.__path__, "lokr_core.") if "__main__" not in info.name]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    module = importlib.import_module(name)
    found = doctest.testmod(
        module, extraglobs={k: getattr(lokr_core, k) for k in lokr_core.__all__} | {"torch": __import__("torch")}
    )
    assert found.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    assert sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name))) >= 8
