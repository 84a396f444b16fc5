"""Real hosts with small models: A1111 is started once for all the tests that talk to it over its API."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lokr_core.cli import main as lokr_command
from tests.hosts import A1111, WebServer, find_forge, find_forge_neo, find_reforge
from tests.webui.adapters import FORGE_SD15, SD15, Layers, lokr, lora, peft, save

HERE = Path(__file__).parent
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}


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

    def with_merged(self, prompt: str, checkpoint: Path, name: str, strength: float) -> np.ndarray:
        """The picture of ``prompt`` with the checkpoint that ``lokr apply`` makes of this one and an adapter."""
        out = checkpoint.with_name(f"merged-{name}.safetensors")
        adapter = self.server.base / f"models/Lora/{name}.safetensors"
        arguments = ["apply", str(checkpoint), str(adapter), "-o", str(out), "-s", str(strength), "--dtype", "fp32"]
        try:
            assert lokr_command(arguments) == 0
            if checkpoint.with_suffix(".yaml").exists():
                shutil.copy(checkpoint.with_suffix(".yaml"), out.with_suffix(".yaml"))
            self.server.post("/sdapi/v1/refresh-checkpoints", {})
            return self(prompt, override_settings={"sd_model_checkpoint": out.name})
        finally:  # as large as the checkpoint, twice
            out.unlink(missing_ok=True)


def apart(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two pictures, in 1/255."""
    return int(np.abs(one - other).max())


@dataclass(frozen=True)
class SmallHost:
    """A host and a small SD1.5 for it, with layers that adapters can be made for.

    hires: what a request for hires fix says
    fp8: the arguments with which the UNet lies in fp8
    fp8_apart: how far apart its pictures may be then, in 1/255: more where it rounds merged weights to fp8 again
    settings: what its file of settings has in any case
    by_page: whether it chooses its checkpoint only where it makes its page
    """

    web_ui: A1111
    checkpoint: Path
    layers: Mapping[str, Layers]
    arguments: tuple[str, ...]
    hires: Mapping[str, object]
    fp8: tuple[str, ...] = ()
    fp8_apart: int = 2
    settings: Mapping[str, object] = field(default_factory=dict)
    by_page: bool = False

    @property
    def modules(self) -> int:
        """How many an adapter for all of its layers has."""
        return sum(map(len, self.layers.values()))

    @contextmanager
    def painter(self, base: Path, *arguments: str, **settings) -> Iterator[Painter]:
        """A server that starts now, with the probe and the adapters that the tests name."""
        (base / "extensions/probe/scripts").mkdir(parents=True)
        shutil.copy(HERE / "probe.py", base / "extensions/probe/scripts/probe.py")
        folder, layers = base / "models/Lora", self.layers
        unet = {"unet": layers["unet"]}
        save(lokr(layers), folder / "style.safetensors")
        save(lokr(layers, rank=None, seed=1), folder / "whole.safetensors")
        save(lokr(unet, seed=2), folder / "unet only.safetensors")
        save(lokr(layers, dora="out", seed=3), folder / "dora.safetensors")
        save(lokr(layers, dora="in", seed=4), folder / "dora-in.safetensors")
        save(lokr(unet, peft, seed=5), folder / "peft.safetensors")
        save(lora(layers), folder / "plain.safetensors")
        with self.serve(base, "--no-hashing", *arguments, **settings) as server:
            yield Painter(server)

    @contextmanager
    def guarded(self, base: Path, api: str, page: str) -> Iterator[WebServer]:
        """A server with its page and the probe, which asks programs for ``api`` and persons for ``page``."""
        (base / "extensions/probe/scripts").mkdir(parents=True)
        shutil.copy(HERE / "probe.py", base / "extensions/probe/scripts/probe.py")
        with self.serve(base, "--api-auth", api, "--gradio-auth", page, page=True, login=api) as server:
            yield server

    @contextmanager
    def serve(
        self, base: Path, *arguments: str, page: bool = False, login: str = "", **settings
    ) -> Iterator[WebServer]:
        """A server that starts now; ``settings`` are those of its page, ``login`` what it asks programs for."""
        base.mkdir(parents=True, exist_ok=True)
        # A preview of SDXL would need a download.
        settings = {
            "sd_model_checkpoint": self.checkpoint.name,
            "live_previews_enable": False,
            **self.settings,
            **settings,
        }
        (base / "config.json").write_text(json.dumps(settings))
        # As it is from the second start on: in its first, Forge Neo pastes all parameters but the prompt.
        (base / "ui-config.json").write_text('{"txt2img/Prompt/value": ""}')
        arguments = ("--ckpt-dir", str(self.checkpoint.parent), *self.arguments, *arguments)
        with self.web_ui.serve(base, *arguments, page=page or self.by_page, login=login) as server:
            yield server


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the small checkpoints; where TINY_CHECKPOINTS names one, they are kept there for the next run."""
    if os.environ.get("TINY_CHECKPOINTS"):
        yield Path(os.environ["TINY_CHECKPOINTS"])
        return
    folder = tmp_path_factory.mktemp("checkpoints")
    yield folder
    shutil.rmtree(folder)  # 2 GB, which pytest would keep for a while


def make_checkpoints(host: A1111, *command: str | Path) -> None:
    environment = {**os.environ, "TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [host.python, *command], cwd=host.path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="session")
def checkpoints(a1111: A1111, kept: Path) -> Path:
    """The folder of A1111's."""
    missing = [kind for kind in ("sd15", "sd2", "sdxl", "refiner") if not (kept / f"tiny-{kind}.yaml").exists()]
    if missing:
        make_checkpoints(a1111, HERE / "tiny_checkpoints.py", kept, *missing)
    return kept


@pytest.fixture(scope="session")
def small_a1111(a1111: A1111, checkpoints: Path) -> SmallHost:
    return SmallHost(a1111, checkpoints / "tiny-sd15.safetensors", SD15, (), HIRES)


def of_forges_kind(
    found: A1111 | None, name: str, kept: Path, fp8: str, fp8_apart: int = 2, upscaler: str = HIRES["hr_upscaler"]
) -> SmallHost:
    """A relative of Forge, with the checkpoint that all of them take. Skips the test if there is none.

    upscaler: one that it has for hires fix
    """
    if found is None:
        variable = name.upper().replace(" ", "_")
        pytest.skip(
            f"NO {name.upper()} HERE: set {variable}_PATH and {variable}_PYTHON; nothing of <lokr:> in {name} is tested"
        )
    file = kept / "forge" / "narrow-sd15.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        make_checkpoints(found, HERE / "forge_checkpoint.py", file)
    # The page asks for the host's own files, which it gives out where they are its data directory's.
    arguments = ("--gradio-allowed-path", str(found.path))
    # The API leaves this None, which Forge cannot iterate over.
    hires = HIRES | {"hr_upscaler": upscaler, "hr_additional_modules": ["Use same choices"]}
    # Forge Neo asks a person, and so waits for ever, where its settings are not of its version.
    version = re.search(r'^VERSION_UID.*"(.*)"', (found.path / "modules/launch_utils.py").read_text(), re.MULTILINE)
    settings = {"VERSION_UID": version[1]} if version else {}
    return SmallHost(found, file, FORGE_SD15, arguments, hires, (fp8,), fp8_apart, settings, by_page=bool(version))


@pytest.fixture(scope="session")
def small_forge(kept: Path) -> SmallHost:
    return of_forges_kind(find_forge(), "Forge", kept, "--unet-in-fp8-e4m3fn")


@pytest.fixture(scope="session")
def small_forge_neo(kept: Path) -> SmallHost:
    return of_forges_kind(find_forge_neo(), "Forge Neo", kept, "--fp8_e4m3fn-unet", upscaler="None")


@pytest.fixture(scope="session")
def small_reforge(kept: Path) -> SmallHost:
    return of_forges_kind(find_reforge(), "reForge", kept, "--unet-in-fp8-e4m3fn", fp8_apart=12)


@pytest.fixture(scope="session", params=["a1111", "forge", "forge_neo", "reforge"])
def small_host(request: pytest.FixtureRequest) -> SmallHost:
    """Each of the hosts, for what is the same in all."""
    return request.getfixturevalue(f"small_{request.param}")


@pytest.fixture(scope="module", params=["forge", "forge_neo", "reforge"])
def patched_host(request: pytest.FixtureRequest) -> SmallHost:
    """Each of the hosts whose models are held by patchers."""
    return request.getfixturevalue(f"small_{request.param}")


@pytest.fixture(scope="session")
def painter(small_a1111: SmallHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    with small_a1111.painter(tmp_path_factory.mktemp("data")) as painter:
        yield painter


@pytest.fixture(scope="session")
def stocked(small_host: SmallHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A server with its page, and model folders as a user has them."""
    base = tmp_path_factory.mktemp("stocked")
    models, layers = base / "models", small_host.layers
    said = {"ss_output_name": "ink_drawing", "modelspec.trigger_phrase": "ink drawing"}
    ink = save(lokr(layers), models / "LoKr/ink.safetensors", **said)
    notes = {"preferred weight": 0.7, "activation text": "ink drawing", "description": "Pen and ink"}
    ink.with_suffix(".json").write_text(json.dumps(notes))
    Image.new("RGB", (64, 96), "beige").save(ink.with_suffix(".png"))
    save(lokr(layers, seed=1), models / "Lora/styles/night [v2] (final).safetensors")
    save(lokr(layers, seed=2), models / "LoKr/été 水彩.safetensors", ssmd_cover_images="no JSON")
    (models / "LoKr/été 水彩.json").write_text('{"preferred weight": "much"}')
    save(lora(layers), models / "Lora/a lora.safetensors")
    (models / "LoKr/broken.safetensors").write_bytes(ink.read_bytes()[:3000])
    with small_host.serve(base, page=True) as server:
        Painter(server)("a pier")  # Forge loads its model for the first picture
        yield server


@pytest.fixture(scope="session")
def headline(small_host: SmallHost) -> str:
    """What a report says of one of the files of ``stocked``."""
    return f"{small_host.modules} of {small_host.modules} modules applied"
