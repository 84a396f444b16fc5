"""The stand-in is what the real A1111 is, as far as the bridge meets it: read off its sources."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.hosts import A1111
from tests.webui import standin
from webui.host import Host
from webui.network import LoKrNetwork


@pytest.fixture
def real_networks(a1111: A1111, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A1111's ``modules.extra_networks`` itself; all that it imports is a module for errors."""

    def display(error: Exception, task: str) -> None:
        raise AssertionError(task) from error

    package, errors = ModuleType("modules"), ModuleType("modules.errors")
    package.errors, errors.display = errors, display
    monkeypatch.setitem(sys.modules, "modules", package)
    monkeypatch.setitem(sys.modules, "modules.errors", errors)
    spec = importlib.util.spec_from_file_location("a1111_extra_networks", a1111.path / "modules/extra_networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functions(path: Path) -> dict[str, list[str]]:
    """Functions and methods ("Class.method") of a source -> the names of their parameters."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for function in inside:
            if isinstance(function, ast.FunctionDef):
                found[prefix + function.name] = [argument.arg for argument in function.args.args]
    return found


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_network_has_the_methods_of_an_extra_network(real_networks: ModuleType):
    for method in ("activate", "deactivate"):
        real = parameters(getattr(real_networks.ExtraNetwork, method))
        assert parameters(getattr(LoKrNetwork, method)) == real
    assert real_networks.ExtraNetwork("lokr").name == LoKrNetwork.name


def test_the_stand_in_has_the_signatures_of_the_real_extra_networks(real_networks: ModuleType):
    for function in ("register_extra_network", "parse_prompts", "activate", "deactivate"):
        stand_in = parameters(getattr(standin.ExtraNetworks, function))[1:]
        assert stand_in == parameters(getattr(real_networks, function)), function
    init = parameters(standin.ExtraNetworkParams.__init__)
    assert init == parameters(real_networks.ExtraNetworkParams.__init__)


@pytest.mark.parametrize(
    "prompt", ["x", "a <lokr:style:0.5:te=1> <lokr:b> <lora:c:1>", "(<lokr:ä (v2):1:mode=merge>:1.2)", "<lokr:a:b=>"]
)
def test_tags_are_taken_apart_as_the_real_one_does(real_networks: ModuleType, prompt: str):
    prompts, data = standin.ExtraNetworks().parse_prompts([prompt, "<lokr:second>"])
    real_prompts, real_data = real_networks.parse_prompts([prompt, "<lokr:second>"])
    assert prompts == real_prompts and data.keys() == real_data.keys()
    for name, tags in data.items():
        for ours, real in zip(tags, real_data[name], strict=True):
            assert (ours.items, ours.positional, ours.named) == (real.items, real.positional, real.named)


def test_a_prompt_with_tags_and_one_without_through_the_real_extra_networks(real_networks: ModuleType, tmp_path: Path):
    host = standin.StandIn()
    file = standin.entry(standin.write_lokr(tmp_path / "a.safetensors", 0))
    network = LoKrNetwork(host, lambda name: file, lambda: "live", lambda p, used: None)
    real_networks.register_extra_network(network)
    run = standin.Run()

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in host.loaded.modules())

    _, data = real_networks.parse_prompts(["x <lokr:a:0.5> <unknown:b>"])
    real_networks.activate(run, data)
    assert hooks() == 4
    _, again = real_networks.parse_prompts(["x <lokr:a:0.5> <unknown:b>"])
    assert again != data  # until it has been activated, when it names the same file
    real_networks.activate(run, again)
    assert again == data
    real_networks.deactivate(run, data)
    real_networks.activate(run, real_networks.parse_prompts(["x"])[1])
    assert hooks() == 0


def test_what_the_bridge_uses_of_a1111_is_there(a1111: A1111):
    modules, builtin = a1111.path / "modules", a1111.path / "extensions-builtin/Lora/networks.py"
    run = functions(modules / "processing.py")
    assert run["StableDiffusionProcessing.comment"] == parameters(standin.Run.comment)
    callbacks = functions(modules / "script_callbacks.py")
    for name in ("before_ui", "cfg_denoiser", "model_loaded", "script_unloaded"):
        assert callbacks[f"on_{name}"][0] == "callback", name
    assert "denoiser" in callbacks["CFGDenoiserParams.__init__"]
    denoiser = (modules / "sd_samplers_cfg_denoiser.py").read_text()
    assert "self.step += 1" in denoiser and "self.total_steps" in denoiser
    assert "self.sd_model = None" in (modules / "sd_models.py").read_text()
    assert functions(modules / "sd_models.py")["SdModelData.set_sd_model"] == ["self", "v", "already_loaded"]
    assert functions(modules / "sd_models.py")["get_empty_cond"] == ["sd_model"]
    assert functions(modules / "patches.py")["patch"] == ["key", "obj", "field", "replacement"]
    assert functions(modules / "errors.py")["report"] == ["message"]
    lora = functions(builtin)
    assert lora["network_restore_weights_from_backup"] == lora["network_reset_cached_weight"] == ["self"]
    assert "self.network_weights_backup" in builtin.read_text()


def test_the_stand_in_is_a_host():
    for name, method in vars(Host).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            assert parameters(getattr(standin.StandIn, name)) == parameters(method), name


def test_a1111s_side_is_a_host(a1111: A1111):
    written = functions(Path(inspect.getfile(Host)).with_name("a1111.py"))
    for name, method in vars(Host).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            assert written[f"A1111.{name}"] == parameters(method), name
