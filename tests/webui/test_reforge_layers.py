"""A small UNet in reForge's own patcher, under LoKr and its own patches in turns, as ``in_reforge.py`` measures it."""

from __future__ import annotations

import pytest

from tests.hosts import find_reforge
from tests.webui.layers import measured_by

PACKED_ANEW = 0.02
"""How far a model may be off whose changed weights reForge stores in fp8: that rounding."""


@pytest.fixture(scope="module")
def measured() -> dict:
    skipped = "NO REFORGE HERE: set REFORGE_PATH and REFORGE_PYTHON; nothing of its own patcher is tested"
    return measured_by("in_reforge.py", find_reforge(), skipped)


@pytest.mark.parametrize("dora", [None, "out"])
@pytest.mark.parametrize("little_memory", [False, True])
@pytest.mark.parametrize("storage", ["fp32", "fp8"])
def test_whoever_comes_or_goes_first_each_keeps_its_work(measured, storage: str, little_memory: bool, dora: str | None):
    """``little_memory``: reForge patches a layer's weight each time that the layer runs."""
    found = measured[f"{storage}, {little_memory}, {dora}"]
    off = PACKED_ANEW if storage == "fp8" and not little_memory else 3e-6
    assert found["refused"] == 0 == found["host"]
    assert found["ours"] > 2 * off and found["theirs"] > 2 * off, "too small to be seen"
    assert found["live"] < 3e-6
    if dora is None:  # live, a DoRA's norms scale the other party's part too
        assert found["live beside theirs"] < off
    for steps in (found["ours first"], found["theirs first"]):
        assert steps.pop("left") == 0
        assert all(distance < off for distance in steps.values()), steps
    assert found["kept"] <= 2, "patchers of earlier strengths, and the adapters in them, are kept"
    assert found["weights"], "the weights are not those of the start"
