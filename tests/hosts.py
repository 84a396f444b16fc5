"""Real hosts, for tests and benchmarks: found where users install them, started, and called over HTTP."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def started(command: list, folder: Path, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """A process that runs while the block runs; its output goes to ``log``."""
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI checkout and the interpreter that runs it."""

    path: Path
    python: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "COMFYUI_PATH": str(self.path)}

    def run(self, base: Path, *jobs: dict) -> None:
        """Run ``jobs`` (see comfyui/in_host.py) in ComfyUI's interpreter, with this project as a custom node."""
        base_directory(base)
        work = base / "jobs.json"
        work.write_text(json.dumps(jobs))
        script = PROJECT / "tests" / "comfyui" / "in_host.py"
        done = subprocess.run(
            [self.python, script, base, work], env=self.environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"

    @contextmanager
    def serve(self, base: Path, *arguments: str) -> Iterator[Server]:
        """A real server on 127.0.0.1 with ``base`` as its base directory, stopped after the block."""
        base_directory(base)
        port = free_port()
        command = [self.python, "main.py", "--cpu", "--base-directory", base, "--disable-auto-launch"]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--database-url", "sqlite:///:memory:", *arguments]
        log = base / "server.log"
        with started(command, self.path, self.environment, log) as process:
            server = Server(f"http://127.0.0.1:{port}", base)
            server.wait_until_up(process, log)
            yield server


@dataclass(frozen=True)
class Server:
    """A running ComfyUI, called over HTTP as its page does."""

    url: str
    base: Path

    def wait_until_up(self, process: subprocess.Popen, log: Path) -> None:
        for _ in range(1500):
            try:
                self.get("/system_stats")
                return
            except OSError:
                assert process.poll() is None, log.read_text()[-6000:]
                time.sleep(0.2)
        raise AssertionError(f"ComfyUI is not up after five minutes:\n{log.read_text()[-6000:]}")

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def queue(self, prompt: dict) -> dict:
        """Queue a prompt. Returns ComfyUI's answer: a prompt_id, or the errors of its validation."""
        request = urllib.request.Request(self.url + "/prompt", json.dumps({"prompt": prompt}).encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def run(self, prompt: dict) -> dict:
        """Queue a prompt and wait for its end. Returns its entry in the history."""
        answer = self.queue(prompt)
        assert "prompt_id" in answer, answer
        for _ in range(3000):
            history = self.get(f"/history/{answer['prompt_id']}")
            if history:
                return history[answer["prompt_id"]]
            time.sleep(0.1)
        raise AssertionError(f"the prompt did not end: {answer}")


@dataclass(frozen=True)
class A1111:
    """A checkout of AUTOMATIC1111's web UI (or of a relative), the interpreter that runs it, and a checkpoint's folder.

    cpu: the arguments that keep it on the CPU, in fp32
    """

    path: Path
    python: Path
    checkpoints: Path
    cpu: tuple[str, ...]

    @contextmanager
    def serve(self, base: Path, *arguments: str, page: bool = False, login: str = "") -> Iterator[WebServer]:
        """A real server on 127.0.0.1 with ``base`` as its data directory, stopped after the block; ``page``: with the
        page, not the API alone; ``login``: see ``WebServer``.

        This project lies in its ``extensions``; models/LoKr, models/Lora and models/LyCORIS are there for adapters.
        """
        for folder in ("extensions", "models/LoKr", "models/Lora", "models/LyCORIS"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        link = base / "extensions" / "comfyui-lokr"
        if not link.exists():
            link.symlink_to(PROJECT, target_is_directory=True)
        port = free_port()
        command = [self.python, "launch.py", "--api", "--port", str(port), "--server-name", "127.0.0.1"]
        command += ["--data-dir", base, "--lora-dir", base / "models" / "Lora", "--ckpt-dir", self.checkpoints]
        command += [*self.cpu, "--disable-console-progressbars"]
        command += [f"--skip-{what}" for what in ("torch-cuda-test", "prepare-environment", "install")]
        command += ["--skip-python-version-check", *arguments] + ([] if page else ["--nowebui"])
        environment = {**os.environ, "TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        log = base / "server.log"
        with started(command, self.path, environment, log) as process:
            server = WebServer(f"http://127.0.0.1:{port}", base, log, login)
            server.wait_until_up(process)
            yield server


@dataclass(frozen=True)
class WebServer:
    """A running web UI, called over its API.

    login: the user and password that it asks programs for, "user:password"
    """

    url: str
    base: Path
    log: Path
    login: str = ""

    def wait_until_up(self, process: subprocess.Popen) -> None:
        for _ in range(1500):
            try:
                # Not before its log has this line: asked while it puts its routes together, it raises and ends.
                if "Startup time:" in self.log.read_text(errors="replace"):
                    self.get("/sdapi/v1/options")
                    return
            except OSError:
                pass
            assert process.poll() is None, self.log.read_text()[-6000:]
            time.sleep(0.2)
        raise AssertionError(f"It is not up after five minutes:\n{self.log.read_text()[-6000:]}")

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(self.login.encode()).decode()}"} if self.login else {}

    def get(self, path: str, **query: str):
        url = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        with urllib.request.urlopen(urllib.request.Request(url, headers=self._headers), timeout=300) as answer:
            return json.loads(answer.read())

    def post(self, path: str, data: dict):
        headers = {"Content-Type": "application/json", **self._headers}
        request = urllib.request.Request(self.url + path, json.dumps(data).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read())


_CPU = ("--use-cpu", "all", "--no-half", "--no-download-sd-model")


def find_a1111() -> A1111 | None:
    """A1111_PATH and A1111_PYTHON; or the web UI whose extensions this is; or ~/a1111/webui. With a checkpoint."""
    return _find_web_ui("A1111", "modules/extra_networks.py", _CPU, lacks="modules_forge")


def find_forge() -> A1111 | None:
    """As ``find_a1111``: FORGE_PATH and FORGE_PYTHON; or ~/forge/webui. With a checkpoint."""
    return _find_web_ui("FORGE", "packages_3rdparty", (*_CPU, "--always-cpu", "--all-in-fp32"))


def find_forge_neo() -> A1111 | None:
    """As ``find_forge``: FORGE_NEO_PATH and FORGE_NEO_PYTHON; or ~/forge-neo/webui. Without a checkpoint too."""
    return _find_web_ui("FORGE_NEO", "modules_forge/packages/comfy", ("--cpu", "--force-fp32"), checkpoint=False)


def find_reforge() -> A1111 | None:
    """As ``find_forge_neo``: REFORGE_PATH and REFORGE_PYTHON; or ~/reforge/webui."""
    return _find_web_ui("REFORGE", "ldm_patched", (*_CPU, "--always-cpu", "--all-in-fp32"), checkpoint=False)


def _find_web_ui(name: str, has: str, cpu: tuple[str, ...], lacks: str = "", checkpoint: bool = True) -> A1111 | None:
    """The first place of the web UI that ``has`` the one and ``lacks`` the other, with a checkpoint in it."""
    home = Path.home() / name.lower().replace("_", "-") / "webui"
    for path in (Path(place) for place in (os.environ.get(f"{name}_PATH"), PROJECT.parent.parent, home) if place):
        checkpoints = path / "models" / "Stable-diffusion"
        if not (path / has).exists() or (lacks and (path / lacks).exists()):
            continue
        if not checkpoint or any(checkpoints.glob("*.safetensors")):
            pythons = [os.environ.get(f"{name}_PYTHON"), path / "venv/bin/python", path.parent / "venv/bin/python"]
            python = next((Path(p) for p in pythons if p and Path(p).exists()), None)
            return A1111(path, python, checkpoints, cpu) if python else None
    return None


def base_directory(base: Path) -> Path:
    """ComfyUI's base directory, with this project linked into ``custom_nodes``."""
    for folder in ("custom_nodes", "input", "output", "user", "temp"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("checkpoints", "loras", "diffusion_models", "text_encoders", "vae"):
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "comfyui-lokr"
    if not link.exists():
        link.symlink_to(PROJECT, target_is_directory=True)
    return base


def find_comfyui() -> ComfyUI | None:
    """COMFYUI_PATH and COMFYUI_PYTHON; or the ComfyUI whose custom_nodes this is; or ~/comfy/ComfyUI."""
    places = [os.environ.get("COMFYUI_PATH"), PROJECT.parent.parent, Path.home() / "comfy" / "ComfyUI"]
    for path in (Path(place) for place in places if place):
        if (path / "comfy" / "model_patcher.py").is_file():
            pythons = [path / ".venv/bin/python", path / "venv/bin/python", path.parent / "venv/bin/python"]
            pythons = [os.environ.get("COMFYUI_PYTHON"), *pythons, path.parent / ".venv/bin/python"]
            python = next((Path(p) for p in pythons if p and Path(p).exists()), None)
            return ComfyUI(path, python) if python else None
    return None
