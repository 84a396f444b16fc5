"""Every command over bad input: told by our own error with what to do; no file and no half file is left."""

from __future__ import annotations

import random
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from lokr_core.cli import main
from tests.files.mutants import LAYERS, mutant
from tests.interchange.adapters import lokr

COMMANDS = {
    "to lora": ["convert", "FILE", "--to", "lora", "--lossy"],
    "to full": ["convert", "FILE", "--to", "full", "--names", "kohya", "--base", "model.safetensors"],
    "renamed": ["convert", "FILE", "--to", "lokr", "--names", "kohya"],
    "resize": ["resize", "FILE", "--rank", "1"],
    "split": ["split", "FILE"],
    "join": ["join", "FILE", "--as", "model"],
    "apply": ["apply", "model.safetensors", "FILE"],
    "combine": ["combine", "FILE"],
    "combine two": ["combine", "style.safetensors", "FILE"],
}
SEEDS = range(7_000_000, 7_000_025)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model and a LoKr for all its layers."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file({f"{name}.weight": torch.randn(shape) for name, shape in LAYERS.items()}, "model.safetensors")
    save_file(style(), "style.safetensors")
    return tmp_path


def style() -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, shape in LAYERS.items()
        for key, tensor in (lokr(shape, rank=1, factor=2).tensors | {"alpha": torch.tensor(1.0)}).items()
    }


def run(folder, capsys, arguments: list[str]) -> int:
    """The exit code; what a refusal says is checked, and that nothing of a refused file is left."""
    before = {path.name for path in folder.iterdir()}
    out = [] if arguments[0] == "split" else ["-o", "out.safetensors"]
    code = main([*arguments, *out])
    said, new = capsys.readouterr().err, {path.name for path in folder.iterdir()} - before
    assert code in (0, 1, 2) and "Traceback" not in said
    assert not any("tmp" in name or name.startswith(".") for name in new)
    if code == 2:
        assert said.startswith("lokr: ") and not new, said
    for name in new:
        assert load_file(name)
        (folder / name).unlink()
    return code


@pytest.mark.parametrize("command", COMMANDS)
def test_mutated_adapters(folder, capsys, command):
    codes = []
    for seed in SEEDS:
        data, file, _ = mutant(seed)
        (folder / "FILE").with_suffix(".safetensors").write_bytes(data)
        if file.config is not None:
            (folder / "adapter_config.json").write_text(file.config)
        codes.append(run(folder, capsys, [a.replace("FILE", "FILE.safetensors") for a in COMMANDS[command]]))
        (folder / "adapter_config.json").unlink(missing_ok=True)
    assert 2 in codes and (command == "split" or codes.count(0) >= len(SEEDS) / 5), codes


@pytest.mark.parametrize("bad", ["base", "tuned"])
def test_mutated_checkpoints_of_an_extraction(folder, capsys, bad):
    tensors = load_file("model.safetensors")
    files = {"base": save(tensors), "tuned": save({name: tensor + 0.1 for name, tensor in tensors.items()})}
    codes = []
    for seed in SEEDS:
        rng = random.Random(seed)
        data = bytearray(files[bad])
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(min(len(data), 400) if rng.random() < 0.5 else len(data))] = rng.randrange(256)
        for name, content in {**files, bad: bytes(data)}.items():
            (folder / f"{name}.safetensors").write_bytes(content)
        codes.append(run(folder, capsys, ["extract", "base.safetensors", "tuned.safetensors", "--names", "original"]))
    assert {0, 2} <= set(codes), codes


@pytest.mark.parametrize("key", ["out.lokr_w1", "conv.lokr_w2_b", "conv.alpha"])
@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_are_not_finite_are_told_by_name(folder, capsys, command, key):
    tensors = style()
    tensors[key] = torch.full_like(tensors[key], torch.nan)
    save_file(tensors, "FILE.safetensors")
    before = {path.name for path in folder.iterdir()}
    arguments = [word.replace("FILE", "FILE.safetensors") for word in COMMANDS[command]]
    assert main([*arguments, *([] if command == "split" else ["-o", "out.safetensors"])]) == 2
    said = capsys.readouterr().err
    assert key.partition(".")[0] in said and "what to do: " in said and {p.name for p in folder.iterdir()} == before


OTHER_MODEL = {
    "apply": ["apply", "other.safetensors", "style.safetensors"],
    "convert": ["convert", "style.safetensors", "--to", "lora", "--model", "other.safetensors"],
    "merged": ["convert", "style.safetensors", "--to", "merged", "--model", "other.safetensors"],
    "extract": ["extract", "model.safetensors", "other.safetensors", "--names", "original"],
}
NO_ADAPTER = {
    "convert": ["convert", "model.safetensors", "--to", "lora"],
    "resize": ["resize", "model.safetensors", "--rank", "2"],
    "split": ["split", "model.safetensors"],
    "split of one": ["split", "style.safetensors"],
    "join": ["join", "model.safetensors", "--as", "model"],
    "apply": ["apply", "model.safetensors", "model.safetensors"],
    "combine": ["combine", "model.safetensors"],
    "extract": ["extract", "model.safetensors", "style.safetensors"],
}


@pytest.mark.parametrize("command", [*product([0], OTHER_MODEL), *product([1], NO_ADAPTER)])
def test_a_file_of_another_kind_or_model_is_told_with_what_to_do(folder, capsys, command):
    save_file({"z.weight": torch.randn(9, 9), "y.weight": torch.randn(3, 3)}, "other.safetensors")
    table, name = command
    arguments = (OTHER_MODEL, NO_ADAPTER)[table][name]
    before = {path.name for path in folder.iterdir()}
    assert main([*arguments, *([] if arguments[0] == "split" else ["-o", "out.safetensors"])]) == 2
    said = capsys.readouterr().err
    assert "what to do: " in said and {path.name for path in folder.iterdir()} == before, said


def test_a_rank_above_the_limit_in_an_extraction_is_told(folder, capsys):
    tuned = {name: tensor + torch.randn(tensor.shape) for name, tensor in load_file("model.safetensors").items()}
    save_file(tuned, "tuned.safetensors")
    arguments = ["extract", "model.safetensors", "tuned.safetensors", "-o", "out.safetensors", "--names", "original"]
    assert main([*arguments, "--rank", "900"]) == 0
    assert "rank 900 is above that of every module" in capsys.readouterr().out
