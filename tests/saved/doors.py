"""Where the tests of what users have saved reach into the project, beyond ``lokr_core``'s top-level names.

Files move; what has been saved does not. After a move this is the one place to re-point. Each function imports for
itself, so that one whose target has gone fails its own tests alone.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


# the library


def lokr(*arguments: object) -> int:
    """The command line: ``lokr ARGUMENTS``; its exit code."""
    from lokr_core.cli import main

    return main([str(argument) for argument in arguments])


def training() -> ModuleType:
    """The package with ``train`` and ``TrainSettings``."""
    from lokr_core import training

    return training


def train_small(pictures: Path, out: Path, *arguments: object) -> None:
    """A training of ``small_flux`` as ``lokr train`` ran it, with that command's arguments."""
    import argparse

    import torch

    from lokr_core import LoKrConfig, demo, get_lokr_model
    from lokr_core.cli import add_arguments, run

    parser = argparse.ArgumentParser()
    add_arguments(parser, str(out), "comfyui")
    for name, kind in (("size", int), ("rank", int), ("alpha", float), ("factor", int)):
        parser.add_argument(f"--{name}", type=kind)
    options = parser.parse_args([str(argument) for argument in arguments])
    base = demo.small_flux()
    torch.manual_seed(options.seed)
    loaded, captions = demo.load_pictures(pictures, options.size)
    prompts = demo.prompt_embedding(captions, base.config.joint_attention_dim)
    config = LoKrConfig(options.rank, options.alpha, decompose_factor=options.factor, target_modules=demo.FLUX_TARGETS)
    run(
        get_lokr_model(base, config),
        demo.flow_matching_loss(demo.latents_of(loaded), prompts),
        len(loaded),
        options,
    )


def small_flux() -> Any:
    """The model that ``train_small`` trains."""
    from lokr_core.demo import small_flux

    return small_flux()


# texts


def block_strengths(text: str, modules: Iterable[str]) -> list[float]:
    """The factor of each module, as a text of block strengths says."""
    from lokr_core.strengths import BlockStrengths

    modules = list(modules)
    return list(map(BlockStrengths.parse(text).over(modules), modules))


def block_presets() -> dict[str, str]:
    """Names of presets for block strengths, and their texts."""
    from lokr_core.strengths import PRESETS

    return dict(PRESETS)


def schedule_of(
    text: str, ease: str, start: float, end: float, percent_of: str, cond: float, uncond: float
) -> tuple[list[float], list[list[float]]]:
    """What ComfyUI's node makes of its widgets: factors at 0, 0.05, ... 1, and the keyframes."""
    from lokr_core.strengths import Schedule, keyframes

    schedule = Schedule(keyframes(text), ease, start, end, percent_of, cond, uncond)
    assert (schedule.by, schedule.cond, schedule.uncond) == (percent_of, cond, uncond)
    return [schedule.at(step / 20) for step in range(21)], [list(point) for point in schedule.points]


def grid_strengths(text: str) -> list[float]:
    """The strengths of an axis of a grid."""
    from lokr_core.strengths import parse_strengths

    return list(parse_strengths(text))


def tags_of(prompt: str) -> tuple[str, list[list]]:
    """A prompt without its tags, and (name, te, unet, text) of each, as ComfyUI's node reads them."""
    from lokr_core.strengths import read_tags

    cleaned, tags = read_tags(prompt)
    return cleaned, [[tag.name, tag.te, tag.unet, tag.text] for tag in tags]


def request_of(tag: str, default_mode: str) -> dict:
    """What A1111 and Forge take from ``<lokr:TAG>``."""
    from webui.tags import request_of

    request = request_of(tag.split(":"), default_mode)
    window = None if request.schedule is None else [request.schedule.start, request.schedule.end]
    blocks = [list(entry) for entry in request.blocks.entries]
    named = {"name": request.tag.name, "te": request.tag.te, "unet": request.tag.unet, "mode": request.mode}
    return {**named, "blocks": blocks, "window": window}


# A1111 and Forge


def in_force(web: SimpleNamespace, name: str, default_mode: str) -> Any:
    """The tag of a file of ``web``, as ``infotext.write`` takes it; the file's content is not looked at."""
    from webui.applied import Use
    from webui.tags import request_of

    return Use(request_of([name], default_mode), web.library.find(name), None)


def web_ui(monkeypatch: Any, models: Path, settings: Mapping[str, object]) -> SimpleNamespace:
    """The extension's ``infotext``, ``library`` and ``settings`` on a stand-in of the host with these folders of models
    and these settings saved; ``host_cache``: the stand-in's caches; ``options``: the settings that are registered."""
    from tests.webui import host_modules

    saved = host_modules.install(monkeypatch, models)
    for name, value in settings.items():
        setattr(saved, name, value)
    shared = sys.modules["modules.shared"]
    shared.OptionInfo, shared.options_templates = OptionInfo, {}
    shared.options_section = lambda section, options: options
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(Radio="Radio", Slider="", Number="", Textbox=""))
    loaded = {name: importlib.import_module(f"webui.{name}") for name in ("infotext", "library", "settings")}
    loaded["settings"].register()
    cache = sys.modules["modules.cache"].cache
    return SimpleNamespace(**loaded, models=models, host_cache=cache, options=shared.options_templates)


class OptionInfo:
    """Of A1111's ``modules.options``."""

    def __init__(self, default=None, label="", component=None, component_args=None, infotext=None):
        self.default, self.component_args, self.infotext = default, component_args, infotext

    def info(self, text: str) -> OptionInfo:
        return self

    def needs_reload_ui(self) -> OptionInfo:
        return self


# ComfyUI --------------------------------------------------------------------------------------------------------------


def node_schemas() -> dict[str, dict]:
    """What the nodes say of themselves, in ``standin.py``'s place of a ComfyUI."""
    command = [sys.executable, str(Path(__file__).with_name("standin.py")), str(PROJECT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout)


def page(browser: Any, url: str) -> Any:
    """ComfyUI's page in a browser, as a context manager."""
    from tests.browser.front import opened

    return opened(browser, url)


def prompt_of_page(page: Any, workflow: dict) -> tuple[dict, list[dict]]:
    """(the prompt that the page makes of a saved workflow, the workflow's nodes as it saves them again)."""
    page.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    page.page.wait_for_timeout(1000)
    prompt = json.loads(page.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))
    found = {node: {key: entry[key] for key in ("class_type", "inputs")} for node, entry in prompt.items()}
    return found, workflow_of_page(page)["nodes"]


def editors_of_page(page: Any, stack: int) -> tuple[bool, str]:
    """(whether the plain widgets of a stack's second row are shown, the steps that a curve's points snap to)."""
    hidden = "widget => widget.hidden || widget.options?.hidden"
    shown = f"id => !({hidden})(app.graph.getNodeById(id).widgets.find(widget => widget.name === 'row_2.lokr_2'))"
    return page.page.evaluate(shown, stack), page.page.get_by_label("Snap to steps").last.input_value()


def workflow_of_page(page: Any) -> dict:
    """The workflow on the page, as it saves it."""
    return json.loads(page.page.evaluate("JSON.stringify(app.graph.serialize())"))


def comfyui() -> tuple[Any, Path]:
    """A ComfyUI, and the tree that it runs the nodes of."""
    from tests import hosts

    return hosts.find_comfyui(), hosts.PROJECT


def make_checkpoint(comfyui: Any, base: Path, name: str) -> None:
    """The tests' small SD1.5 with random weights, in a base directory of ComfyUI."""
    path = base / "models" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    comfyui.run(base, {"do": "make_sd15", "path": str(path), "dtype": "float16"})
