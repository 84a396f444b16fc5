"""Forge Neo's presets leave out the cards of files for other base models, if the user has its filter on."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from lokr_core.names._registry import ARCHITECTURES
from tests.webui import host_modules


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    return host_modules.install(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    "preset, base_model, chosen, hidden",
    [
        ("sd", "Stable Diffusion 1.x", "", False),
        ("xl", "Stable Diffusion 1.x", "", True),
        ("klein", "Flux.2", "", False),
        ("flux", "Flux.2", "", True),
        ("flux", "Chroma", "", False),
        ("xl", "", "", False),  # unknown
        ("xl", "Stable Diffusion 2.x", "", False),  # no preset is for it
        ("xl", "Stable Diffusion 1.x", "xl", False),  # the user's notes come first
        ("sd", "Stable Diffusion 1.x", "xl", True),
        ("xl", "Stable Diffusion 1.x", "Unknown", True),
    ],
)
def test_a_card_is_hidden_if_its_base_model_is_another_presets(options, preset, base_model, chosen, hidden):
    presets = importlib.import_module("webui.presets")
    options.forge_preset = preset
    options.lora_preset_filter = True
    assert presets.hides(base_model, chosen) is hidden
    options.lora_preset_filter = False
    assert not presets.hides(base_model, chosen)


def test_the_base_models_are_those_that_files_tell(options):
    presets = importlib.import_module("webui.presets")
    named = {model for models in presets._PRESETS.values() for model in models}
    assert named <= {architecture.title for architecture in ARCHITECTURES}


def test_a_host_without_presets_hides_nothing(options):
    assert not importlib.import_module("webui.presets").hides("SDXL", "")
