"""The stand-in for the host's ``modules`` has the signatures of the real ones."""

from __future__ import annotations

import ast
import inspect

import pytest

from tests.hosts import A1111
from tests.webui.host_modules import cache, errors, hashes, script_callbacks

FUNCTIONS = [
    errors.print_error_explanation,
    cache.cache,
    hashes.sha256,
    hashes.sha256_from_cache,
    hashes.addnet_hash_safetensors,
    script_callbacks.on_infotext_pasted,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_signatures_are_the_hosts(a1111: A1111, function):
    module, name = function.__qualname__.split(".")
    tree = ast.parse((a1111.path / "modules" / f"{module}.py").read_text())
    (real,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    parameters = [argument.arg for argument in (*real.args.args, *real.args.kwonlyargs)]
    assert parameters == list(inspect.signature(function).parameters)
