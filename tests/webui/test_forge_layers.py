"""Layers of Forge's own Flux, plain and packed, under LoKr, as ``in_forge.py`` measures them in Forge's interpreter."""

from __future__ import annotations

import pytest

from tests.hosts import find_forge
from tests.webui.layers import measured_by

FILES = ("diffusers None", "diffusers out", "original None", "original out")
PACKED_COARSELY = {"fp8": 0.06, "scaled fp8": 0.06, "Q8_0": 0.02, "Q5_0": 0.1, "Q4_0": 0.2, "nf4": 0.2}
"""How far a model may be off whose changed weights are packed anew: the packing's own rounding."""


@pytest.fixture(scope="module")
def measured() -> dict:
    skipped = "NO FORGE HERE: set FORGE_PATH and FORGE_PYTHON; nothing of Forge's packed layers is tested"
    return measured_by("in_forge.py", find_forge(), skipped)


@pytest.mark.parametrize("kind", ["plain", *PACKED_COARSELY])
@pytest.mark.parametrize("file", FILES)
def test_packed_or_not_the_output_is_that_of_the_unpacked_weights_with_the_adapter(measured, file: str, kind: str):
    """``file``: whose names it has, and on which axis its DoRA is, if it has one."""
    if kind not in measured[file]:
        pytest.skip("NO BITSANDBYTES IN FORGE'S PYTHON: its NF4 layers are not tested")
    found = measured[file][kind]
    assert found["refused"] == 0
    assert found["none"] > 0.1, "the adapter changes too little to be seen"
    assert found["live"] < 2e-6
    assert found["merge while running"] < 2e-6
    assert found.get("merge", 0) < PACKED_COARSELY.get(kind, 2e-6)
    assert found.get("left by merge", 0) == found["left by merge while running"] == 0


def test_clip_and_t5_take_what_is_theirs(measured):
    applied, refused = measured["text encoders"]
    assert (applied, refused) == (19, 0)


@pytest.mark.parametrize("while_running", [False, True])
@pytest.mark.parametrize("dora", [None, "out"])
def test_forges_handle_walks_the_list_of_calls_of_every_handle(measured, dora: str | None, while_running: bool):
    assert measured[f"walk {dora}"][str(while_running)] == []
