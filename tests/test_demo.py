"""``lokr demo``: the table's numbers and the picture show what they say."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch

from lokr_core import load_adapter
from lokr_core._files import load_tensors
from lokr_core.display import draw_text, text_width, write_png
from lokr_core.tools import apply_to_file


def read_png(path) -> np.ndarray:
    """A PNG as ``write_png`` writes it, decoded without it."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0] and b"IEND" in chunks
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, stdout) of one run, in a process of its own."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "lokr_core.cli", "demo", "--out", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30)
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


def test_a_png_is_read_as_it_was_written(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (13, 29, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", image)
    assert (read_png(tmp_path / "a.png") == image).all()
    pillow = pytest.importorskip("PIL.Image")
    assert (np.array(pillow.open(tmp_path / "a.png")) == image).all()


def test_a_png_of_anything_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "a.png", np.zeros((4, 4, 3)))


def test_text_keeps_within_its_width():
    image = np.zeros((20, 200, 3), np.uint8)
    draw_text(image, "0.25", 3, 10, (255, 255, 255), scale=2)
    lit = np.argwhere(image.any(2))
    assert lit.min(0).tolist() == [3, 10] and (lit.max(0) < [3 + 14, 10 + text_width("0.25", 2)]).all()
