"""Small models of Forge Neo's own classes, plain and packed, under LoKr, as ``in_forge_neo.py`` measures them there."""

from __future__ import annotations

import pytest

from tests.hosts import find_forge_neo
from tests.webui.layers import measured_by

MODELS = (
    "SD1.5",
    "SDXL",
    "Flux.1",
    "Flux.2 Klein",
    "Chroma",
    "Lumina 2",
    "Z-Image",
    "Qwen-Image",
    "Wan",
    "Anima",
    "Krea 2",
)
PACKED = {"fp8": 0.15, "mixed fp8": 0.15, "int8": 0.1, "Q8_0": 0, "Q4_0": 0}
"""How far a model may be off whose changed weights the host packs anew, which it does not with GGUF's."""
TEXTS = ("qwen3", "qwen3_06b", "qwen25_7b", "gemma2")


@pytest.fixture(scope="module")
def measured() -> dict:
    skipped = "NO FORGE NEO HERE: set FORGE_NEO_PATH and FORGE_NEO_PYTHON; nothing of its own models is tested"
    return measured_by("in_forge_neo.py", find_forge_neo(), skipped)


def of(measured: dict, case: str) -> dict:
    found = measured[case]
    assert "error" not in found, found["error"]
    assert found.get("refused", 0) == 0 < found["modules"]
    assert found["none"] > 0.05, "the adapter changes too little to be seen"
    return found


@pytest.mark.parametrize("dora", [None, "out"])
@pytest.mark.parametrize("model", MODELS)
def test_the_output_is_that_of_weights_with_the_adapter(measured: dict, model: str, dora: str | None):
    found = of(measured, f"{model}, plain, {dora}")
    assert found["live"] < 3e-6
    assert found["merge"] < 3e-6 > found["merge while running"]
    assert found["left by merge"] == found["left by merge while running"] == 0


@pytest.mark.parametrize("dora", [None, "out"])
@pytest.mark.parametrize("packing", PACKED)
def test_packed_layers(measured: dict, packing: str, dora: str | None):
    """Live is as near to the adapter on the unpacked weights as the host's own output is to those weights alone."""
    found = of(measured, f"Flux.1, {packing}, {dora}")
    assert found["live"] < 3e-6 + 2 * found["host"]
    assert found["merge while running"] < 3e-6
    assert found["merge"] <= PACKED[packing] + 3e-6
    assert found["left by merge"] == found["left by merge while running"] == 0


@pytest.mark.parametrize("dora", [None, "out"])
@pytest.mark.parametrize("on_the_fly", [False, True])
def test_merged_in_turns_with_its_own_lora_each_keeps_its_work(measured: dict, on_the_fly: bool, dora: str | None):
    """``on_the_fly``: its setting "Patch LoRAs on-the-fly"."""
    found = measured[f"in turns, {on_the_fly}, {dora}"]
    assert "error" not in found, found["error"]
    assert found["seen"] > 1e-3
    for steps in (found["ours first"], found["theirs first"]):
        assert steps.pop("none") == 0
        assert all(distance < 3e-6 for distance in steps.values()), steps


@pytest.mark.parametrize("text", TEXTS)
def test_the_language_models_that_encode_its_prompts(measured: dict, text: str):
    found = of(measured, f"text {text}")
    assert found["live"] < 3e-6 > found["merge"]
    assert found["as text encoder"] < 3e-6, "some of it has the denoiser's strength"
    assert found["left by merge"] == 0


@pytest.mark.parametrize("dora, weights", [(None, 0.25), ("out", 0.25)])
def test_patching_a_weight_takes_far_less_memory_than_the_weight(measured: dict, dora: str | None, weights: float):
    """Besides the host's working copy: W1 ⊗ W2 is never made."""
    assert measured["peak"][str(dora)] < weights
