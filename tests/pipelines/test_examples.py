"""The example for models of transformers: the file attached gives what the trained model gives."""

from __future__ import annotations

import runpy

import pytest

from tests.hosts import PROJECT

pytest.importorskip("transformers", reason="transformers' models are what is tested here")

EXAMPLE = runpy.run_path(str(PROJECT / "examples" / "transformers_models.py"))


@pytest.mark.parametrize("name", EXAMPLE["MODELS"])
def test_a_model_of_transformers_takes_what_was_trained_on_it(name: str) -> None:
    base, expected, attached = EXAMPLE["run"](EXAMPLE["MODELS"][name])
    assert (expected - base).abs().max() > 1e-2 * base.abs().max()
    assert (attached - expected).abs().max() <= 1e-5 * expected.abs().max()
