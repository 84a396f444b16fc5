"""``lokr demo``: the table's numbers and the picture show what they say."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lokr_core import load_adapter
from lokr_core._files import load_tensors
from lokr_core.tools import apply_to_file


def read_png(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return np.array(picture)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, stdout) of one run, in a process of its own."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "lokr_core.cli", "demo", "--out", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""  # no terminal, no bar
    return folder, run.stdout


def test_the_table_is_right(demo):
    _, text = demo
    rows = re.findall(r"^ +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +(.+)$", text, re.M)
    assert [float(row[0]) for row in rows] == [0, 0.25, 0.5, 0.75, 1, 1.25]
    assert {row[4] for row in rows} == {"bit for bit"}
    to_target, to_base, change = (np.array([float(row[i]) for row in rows]) for i in (1, 2, 3))
    assert (np.diff(to_target[:5]) < 0).all() and to_target[5] > to_target[4]  # nearer up to 1, then past it
    assert to_target[4] < to_target[0] / 8
    assert to_base[0] == change[0] == 0 and (np.diff(to_base) > 0).all()
    assert np.allclose(change, change[4] * np.array([0, 0.25, 0.5, 0.75, 1, 1.25]), atol=2e-4)


def test_the_loaded_file_is_what_was_trained(demo):
    difference = float(re.search(r"differ from training's by (\S+)", demo[1])[1])
    assert difference < 1e-5


def test_the_picture_goes_from_base_to_target(demo):
    image = read_png(demo[0] / "strengths.png").astype(float) / 255
    tile, gap, top = 144, 8, 30
    upper = [image[top : top + tile, gap + i * (tile + gap) :][:, :tile] for i in range(7)]
    lower = [image[top + tile + gap : top + 2 * tile + gap, gap + i * (tile + gap) :][:, :tile] for i in range(7)]
    distance = [np.sqrt(((picture - upper[6]) ** 2).mean()) for picture in upper]
    assert all(a > b for a, b in zip(distance[:4], distance[1:5], strict=True)) and distance[4] < distance[0] / 6
    brightness = [picture.mean() for picture in upper]
    assert brightness[0] > 2 * brightness[6]  # day and night
    assert lower[0].max() == 0 and lower[4].mean() > lower[1].mean() > 0


def test_its_files_work_with_the_other_commands(demo, tmp_path):
    folder, text = demo
    assert f"lokr inspect {folder / 'night.safetensors'}" in text
    adapter = load_adapter(folder / "night.safetensors")
    report = apply_to_file(folder / "base.safetensors", adapter, tmp_path / "out.safetensors")
    assert report.complete and len(adapter) == 4
    base, _ = load_tensors(folder / "base.safetensors")
    merged, _ = load_tensors(tmp_path / "out.safetensors")
    assert not torch.equal(base["0.weight"], merged["0.weight"]) and torch.equal(base["0.bias"], merged["0.bias"])
