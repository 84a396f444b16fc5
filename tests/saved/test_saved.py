"""Files that release 0.1.0 wrote (``write.py``) are read today as they were then: adapters, PEFT folders, trainings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lokr_core import LoKrConfig, LoKrModel, load_adapter, load_lokr_model
from tests.saved import doors
from tests.saved.making import (
    COMMAND,
    EXAMPLES,
    FILES,
    SETTINGS,
    STOPPED,
    TRAINED,
    Small,
    deltas,
    described,
    flux,
    inputs_of_small,
    loss_of,
    merged,
    names_in,
    network,
    sums,
)

ADAPTERS = json.loads((FILES / "adapters.json").read_text(encoding="utf-8"))


def same_entries(found: object, saved: object, where: str = "") -> None:
    """All that was recorded is the same; what is told today beyond it may be there."""
    if isinstance(saved, dict):
        assert saved.keys() <= found.keys(), where
        for key, value in saved.items():
            same_entries(found[key], value, f"{where}/{key}")
    else:
        assert found == saved, where


def test_there_is_a_file_of_each_format():
    kinds = {"own", "kohya", "lycoris", "comfyui", "diffusers", "peft", "bf16", "fp8", "trained", "combined"}
    assert {name.partition(".")[0] for name in ADAPTERS} == kinds
    assert {path.name for path in (FILES / "adapters").iterdir()} == ADAPTERS.keys()


@pytest.fixture(scope="module")
def numbers() -> dict[str, torch.Tensor]:
    return load_file(FILES / "adapters.safetensors")


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_read_as_it_was(name: str, numbers: dict[str, torch.Tensor]):
    """Every tensor and number to the last bit; the deltas too, for their products are exact in any order."""
    saved, adapter = ADAPTERS[name], load_adapter(FILES / "adapters" / name)
    found = json.loads(json.dumps(described(adapter)))
    assert found["modules"].keys() == saved["modules"].keys()
    same_entries(found, {key: value for key, value in saved.items() if key not in ("deltas", "merged")})
    assert (found["other"], found["other_kinds"]) == (saved["other"], saved["other_kinds"])
    for module, delta in deltas(adapter).items():
        assert torch.equal(delta, numbers[saved["deltas"][module]]), module


@pytest.mark.parametrize("name", [name for name, saved in ADAPTERS.items() if "merged" in saved])
def test_an_adapter_does_to_a_model_what_it_did(name: str, numbers: dict[str, torch.Tensor]):
    """DoRA, LoRA, norms and full differences included."""
    saved, found = ADAPTERS[name]["merged"], merged(load_adapter(FILES / "adapters" / name))
    assert found.keys() == saved.keys()
    for parameter, weight in found.items():
        assert torch.allclose(weight, numbers[saved[parameter]], rtol=1e-6, atol=1e-6), parameter


def test_a_merged_checkpoint_says_still_what_went_into_it_and_takes_more(tmp_path: Path):
    out, folder = tmp_path / "out.safetensors", FILES / "checkpoint"
    adapter = FILES / "adapters" / "diffusers.safetensors"
    assert doors.lokr("apply", folder / "merged.safetensors", adapter, "-o", out) == 0
    found, saved = load_file(out), load_file(folder / "twice.safetensors")
    assert found.keys() == saved.keys() and all(torch.equal(found[name], saved[name]) for name in saved)
    with safe_open(out, "pt") as file, safe_open(folder / "twice.safetensors", "pt") as twice:
        notes = [json.loads(each.metadata()["lokr.merges"]) for each in (file, twice)]
        assert file.metadata()["modelspec.title"] == "base"
    assert len(notes[0]) == 2 and notes[0][0] == notes[1][0], "the first merge is noted as it was"
    same_entries(notes[0][1] | {"version": ""}, notes[1][1] | {"version": ""})


# PEFT's folders


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    """What the models gave for ``inputs_of_small``."""
    return load_file(FILES / "peft.safetensors")


def assert_gives(model: torch.nn.Module, expected: torch.Tensor) -> None:
    with torch.no_grad():
        assert torch.allclose(model(inputs_of_small()), expected, rtol=1e-5, atol=1e-6)


def test_the_model_of_these_tests_is_the_one_of_the_files(outputs):
    assert_gives(Small(), outputs["base"])
    assert torch.allclose(outputs["kohya"], outputs["pefts"], atol=1e-5), "the same adapter, saved in two ways"
    unlike = [output for name, output in outputs.items() if name != "kohya"]
    assert all(not torch.allclose(a, b, atol=1e-2) for n, a in enumerate(unlike) for b in unlike[:n])


@pytest.mark.parametrize("trainable", [False, True])
def test_a_folder_with_pefts_own_fields(outputs, trainable: bool):
    model = LoKrModel.from_pretrained(Small(), FILES / "peft" / "pefts", is_trainable=trainable)
    assert any(parameter.requires_grad for parameter in model.parameters()) is trainable
    assert_gives(model.eval(), outputs["pefts"])


def test_folders_with_fields_that_are_ours(outputs):
    """DoRA, rs_lora, LyCORIS' order, Tucker; biases and a module that were trained whole; a second adapter."""
    model = LoKrModel.from_pretrained(Small(), FILES / "peft" / "own")
    assert_gives(model, outputs["own:default"])
    model.load_adapter(FILES / "peft" / "own", "second", subfolder="second")
    model.set_adapter("second", inference_mode=True)
    assert_gives(model, outputs["own:second"])
    model.set_adapter(["default", "second"], inference_mode=True)
    assert_gives(model, outputs["own:both"])
    model.set_adapter("default", inference_mode=True)
    assert_gives(model, outputs["own:default"])


@pytest.mark.parametrize("folder", ["pefts", "own", "own/second"])
def test_a_configuration_says_what_it_said(folder: str):
    saved = json.loads((FILES / "peft.json").read_text(encoding="utf-8"))[Path(folder).name]
    same_entries(json.loads(json.dumps(LoKrConfig.from_pretrained(FILES / "peft" / folder).to_dict())), saved)


@pytest.mark.parametrize("folder", ["pefts", "own", "own/second"])
def test_a_folder_saved_again_holds_the_same(folder: str, tmp_path: Path):
    source = FILES / "peft" / folder
    LoKrModel.from_pretrained(Small(), source).save_pretrained(tmp_path)
    found, saved = (load_file(path / "adapter_model.safetensors") for path in (tmp_path, source))
    assert found.keys() == saved.keys() and all(torch.equal(found[name], saved[name]) for name in saved)
    found, saved = (json.loads((path / "adapter_config.json").read_text()) for path in (tmp_path, source))
    same_entries(found, saved)


def test_a_file_of_kohyas_format_goes_on_in_training(outputs):
    model = load_lokr_model(Small(), FILES / "adapters" / "trained.safetensors")
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert_gives(model.eval(), outputs["kohya"])


# trainings


@pytest.mark.parametrize("kind", TRAINED)
def test_a_training_goes_on_from_its_state(kind: str, tmp_path: Path):
    """To the losses and the adapter that it would have come to: moments, order, noise and dropout all fit."""
    saved = json.loads((FILES / "training.json").read_text())[kind]
    shutil.copytree(FILES / "training" / kind, tmp_path / "run")
    training, model, written = doors.training(), network(kind), []
    settings = training.TrainSettings(**SETTINGS)
    losses = training.train(model, loss_of, EXAMPLES, settings, tmp_path / "run", written.append)
    assert losses[:STOPPED] == json.loads((FILES / "training" / kind / "losses.json").read_text())
    assert losses == pytest.approx(saved, rel=1e-6, abs=1e-6) and len(losses) == SETTINGS["steps"]
    assert len(written) == 2, "it has taken the steps that were left, and no more"
    expected = load_file(FILES / "training.safetensors")
    for module, delta in deltas(model.to_adapter()).items():
        assert torch.allclose(delta, expected[f"{kind}:{module}"], rtol=1e-4, atol=1e-5), module
    assert names_in(tmp_path / "run" / "state.safetensors") == names_in(FILES / "training" / kind / "state.safetensors")


def test_a_training_of_the_small_flux_takes_the_steps_that_it_took(tmp_path: Path):
    """So a folder of one can be gone on with: the same model, adapter, order and noise."""
    pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it makes the model that is trained")
    pytest.importorskip("accelerate", reason="NO ACCELERATE HERE: a training runs on it")
    pytest.importorskip("PIL.Image", reason="NO PILLOW HERE: pictures are read by it")
    saved = json.loads((FILES / "command.json").read_text())
    if sums(flux()) != pytest.approx(saved["base"], abs=1e-3):
        pytest.skip("ANOTHER TORCH OR DIFFUSERS HERE: the random weights that a model begins with are others")
    assert sums(doors.small_flux()) == pytest.approx(saved["base"], abs=1e-3)
    torch.manual_seed(1)  # whatever was drawn before
    for steps in (3, 6):  # stopped in between
        doors.train_small(FILES / "training" / "pictures", tmp_path, *COMMAND, "--steps", steps)
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert losses == pytest.approx(saved["losses"], rel=1e-4)
    for name in ("state", "lokr"):
        assert names_in(tmp_path / f"{name}.safetensors") == saved[name], "names and shapes in the file"
