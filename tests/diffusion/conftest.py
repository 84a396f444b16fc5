"""Tiny pipelines of the four families, and folders of pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

COLOURS = {"a red picture": (220, 30, 40), "a blue picture": (30, 60, 210)}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline."""
    pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it makes the models that are trained")
    pytest.importorskip("transformers", reason="NO TRANSFORMERS HERE: it makes the text encoders")
    pytest.importorskip("accelerate", reason="NO ACCELERATE HERE: a training runs on it")
    from tests.diffusion.tiny_pipelines import saved

    @cache
    def made(family: str) -> Path:
        return saved(family, tmp_path_factory.mktemp("model") / family)

    return made


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Four pictures of two sizes in plain colours, with their captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (caption, colour) in enumerate([*COLOURS.items()] * 2):
        Image.new("RGB", (48, 48) if number < 2 else (64, 40), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder
