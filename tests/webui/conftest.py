"""A real A1111 with small models, started once for all the tests that talk to it over its API."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lokr_core.cli import main as lokr_command
from tests.hosts import A1111, WebServer
from tests.webui.adapters import SD15, lokr, lora, save

HERE = Path(__file__).parent
# A preview of SDXL would need a download.
SETTINGS = {"sd_model_checkpoint": "tiny-sd15.safetensors", "live_previews_enable": False}


@dataclass(frozen=True)
class Painter:
    """A running host and its small runs."""

    server: WebServer

    SMALL = {"seed": 1, "steps": 2, "width": 64, "height": 64, "cfg_scale": 3, "sampler_name": "Euler"}

    def __call__(self, prompt: str, kind: str = "txt2img", **settings) -> np.ndarray:
        """The picture of ``prompt`` (of several, one below the other)."""
        return np.concatenate(self.pictures(prompt, kind, **settings))

    def pictures(self, prompt: str, kind: str = "txt2img", **settings) -> list[np.ndarray]:
        answer = self.server.post(f"/sdapi/v1/{kind}", {"prompt": prompt, **self.SMALL, **settings})
        images = (Image.open(io.BytesIO(base64.b64decode(image))) for image in answer["images"])
        return [np.asarray(image).astype(int) for image in images]

    def comments(self) -> str:
        """What stands under the last picture."""
        return self.server.get("/probe/comments")

    def use(self, checkpoint: str) -> None:
        self.server.post("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})

    def merged(self, checkpoint: Path, name: str, strength: float) -> str:
        """The name of a checkpoint that ``lokr apply`` makes of this one and an adapter."""
        out = checkpoint.with_name("merged.safetensors")
        adapter = self.server.base / f"models/Lora/{name}.safetensors"
        arguments = ["apply", str(checkpoint), str(adapter), "-o", str(out), "-s", str(strength), "--dtype", "fp32"]
        assert lokr_command(arguments) == 0
        out.with_suffix(".yaml").write_text(checkpoint.with_suffix(".yaml").read_text())
        self.server.post("/sdapi/v1/refresh-checkpoints", {})
        return out.name


def apart(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two pictures, in 1/255."""
    return int(np.abs(one - other).max())


@pytest.fixture(scope="session")
def checkpoints(a1111: A1111, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small checkpoints; where TINY_CHECKPOINTS names one, they are kept there for the next run."""
    folder = Path(os.environ.get("TINY_CHECKPOINTS") or tmp_path_factory.mktemp("checkpoints"))
    missing = [kind for kind in ("sd15", "sd2", "sdxl", "refiner") if not (folder / f"tiny-{kind}.yaml").exists()]
    if missing:
        done = subprocess.run(
            [a1111.python, HERE / "tiny_checkpoints.py", folder, *missing],
            cwd=a1111.path,
            env={**os.environ, "TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return folder


def data_folder(base: Path) -> Path:
    """A data directory with the probe and the adapters that the tests name."""
    (base / "extensions/probe/scripts").mkdir(parents=True)
    shutil.copy(HERE / "probe.py", base / "extensions/probe/scripts/probe.py")
    (base / "config.json").write_text(json.dumps(SETTINGS))
    folder = base / "models/Lora"
    unet = {"unet": SD15["unet"]}
    save(lokr(SD15), folder / "style.safetensors")
    save(lokr(SD15, rank=None, seed=1), folder / "whole.safetensors")
    save(lokr(unet, seed=2), folder / "unet only.safetensors")
    save(lokr(SD15, dora="out", seed=3), folder / "dora.safetensors")
    save(lokr(SD15, dora="in", seed=4), folder / "dora-in.safetensors")
    save(lora(SD15), folder / "plain.safetensors")
    return base


@pytest.fixture(scope="session")
def painter(a1111: A1111, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    base = data_folder(tmp_path_factory.mktemp("data"))
    with a1111.serve(base, "--ckpt-dir", str(checkpoints), "--no-hashing") as server:
        yield Painter(server)


@pytest.fixture(scope="session")
def stocked(a1111: A1111, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A server with its page, and model folders as a user has them."""
    base = tmp_path_factory.mktemp("stocked")
    models = base / "models"
    (base / "config.json").write_text(json.dumps(SETTINGS))
    said = {"ss_output_name": "ink_drawing", "modelspec.trigger_phrase": "ink drawing"}
    ink = save(lokr(SD15), models / "LoKr/ink.safetensors", **said)
    notes = {"preferred weight": 0.7, "activation text": "ink drawing", "description": "Pen and ink"}
    ink.with_suffix(".json").write_text(json.dumps(notes))
    Image.new("RGB", (64, 96), "beige").save(ink.with_suffix(".png"))
    save(lokr(SD15, seed=1), models / "Lora/styles/night [v2] (final).safetensors")
    save(lokr(SD15, seed=2), models / "LoKr/été 水彩.safetensors", ssmd_cover_images="no JSON")
    (models / "LoKr/été 水彩.json").write_text('{"preferred weight": "much"}')
    save(lora(SD15), models / "Lora/a lora.safetensors")
    (models / "LoKr/broken.safetensors").write_bytes(ink.read_bytes()[:3000])
    with a1111.serve(base, "--ckpt-dir", str(checkpoints), page=True) as server:
        yield server
