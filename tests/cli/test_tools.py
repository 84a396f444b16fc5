"""``lokr convert``, ``extract``, ``resize``, ``split``, ``join``, ``apply``: exit codes, files, questions."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import Adapter, Factor, LoKrWeights, load_adapter, merge_adapter, save_adapter
from lokr_core.cli import main

COMMANDS = (
    "apply",
    "check",
    "combine",
    "completion",
    "convert",
    "demo",
    "extract",
    "inspect",
    "join",
    "resize",
    "split",
    "train",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model, two adapters for it, one of which has a module of another model, and a tuned model."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file({"a.weight": torch.randn(32, 32), "b.weight": torch.randn(16, 32)}, "model.safetensors")
    for name, modules in (("style", "ab"), ("half", "ac")):
        shapes = {"a": (4, 8, 8), "b": (4, 4, 8), "c": (4, 8, 8)}
        chosen = {m: shape for m, shape in shapes.items() if m in modules}
        weights = {
            m: LoKrWeights(Factor(torch.randn(l, 4)), Factor(torch.randn(k, n))) for m, (l, k, n) in chosen.items()
        }
        save_adapter(Adapter(weights), f"{name}.safetensors")
    return tmp_path


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_two_examples(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "-h"])
    assert capsys.readouterr().out.count(f"\n  lokr {command}") == 2


def test_convert_writes_a_lora_and_tells_what_it_keeps(folder, capsys):
    assert main(["convert", "style.safetensors", "-o", "lora.safetensors", "--to", "lora", "--error", "0"]) == 0
    assert "100% of the energy kept" in capsys.readouterr().out
    tensors = load_file("lora.safetensors")
    assert {key.rpartition("_")[2] for key in tensors if "lora_" in key} == {"up.weight", "down.weight"}
    arguments = ["convert", "style.safetensors", "-o", "l2.safetensors", "--to", "lora", "--rank", "12"]
    assert main([*arguments, "--lossy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["energy"] < 1 and {module["rank"] for module in found["modules"]} == {12}


def test_convert_writes_nothing_that_is_unlike_the_original(folder, capsys):
    arguments = ["convert", "style.safetensors", "-o", "lora.safetensors", "--to", "lora", "--rank", "1"]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "not written" in out and "\nwritten:" not in out and not (folder / "lora.safetensors").exists()
    assert main([*arguments, "--lossy"]) == 0 and (folder / "lora.safetensors").exists()


def test_convert_to_merged_is_apply(folder):
    assert (
        main(["convert", "style.safetensors", "-o", "m.safetensors", "--to", "merged", "--model", "model.safetensors"])
        == 0
    )
    assert main(["apply", "model.safetensors", "style.safetensors", "-o", "n.safetensors"]) == 0
    assert all(torch.equal(t, load_file("n.safetensors")[k]) for k, t in load_file("m.safetensors").items())


def test_apply_takes_several_adapters_each_at_its_strength(folder, capsys):
    arguments = ["apply", "model.safetensors", "style.safetensors:0.5", "half.safetensors:-1", "-o", "out.safetensors"]
    assert main(arguments) == 0
    assert "1 of 2 modules applied, 1 refused" in capsys.readouterr().out
    expected = load_file("model.safetensors")
    merge_adapter(expected, load_adapter("style.safetensors"), 0.5)
    merge_adapter(expected, load_adapter("half.safetensors"), -1)
    assert all(torch.equal(load_file("out.safetensors")[name], tensor) for name, tensor in expected.items())
    assert main([*arguments, "--overwrite", "--strict"]) == 1
    assert main([*arguments, "--overwrite", "-s", "2"]) == 2
    assert "-s is the strength of a single adapter" in capsys.readouterr().err


def test_extract_finds_what_apply_merged(folder, capsys):
    main(["apply", "model.safetensors", "style.safetensors", "-o", "tuned.safetensors"])
    arguments = ["extract", "model.safetensors", "tuned.safetensors", "-o", "found.safetensors", "--names", "original"]
    assert main([*arguments, "--factor", "4", "--picture", "kept.png"]) == 0
    assert "100% of the energy kept" in capsys.readouterr().out
    assert (folder / "kept.png").read_bytes().startswith(b"\x89PNG")
    for module, weights in load_adapter("style.safetensors").items():
        assert torch.allclose(load_adapter("found.safetensors")[module].delta(), weights.delta(), atol=1e-4)


def test_split_and_join(folder, capsys):
    both = {}
    for n in (1, 2):
        both |= {f"diffusion_model.transformer_{n}.a.lokr_w{i}": torch.randn(2, 2) for i in (1, 2)}
    save_file(both, "both.safetensors")
    assert main(["split", "both.safetensors"]) == 0
    assert "high: 1 modules" in capsys.readouterr().out
    parts = ["both.high.safetensors", "both.low.safetensors"]
    assert main(["join", *parts, "--as", "high,low", "-o", "again.safetensors"]) == 0
    assert load_file("again.safetensors").keys() == both.keys()


OUTPUTS = {
    "apply": ["model.safetensors", "style.safetensors"],
    "combine": ["style.safetensors"],
    "convert": ["style.safetensors", "--to", "full"],
    "resize": ["style.safetensors", "--rank", "2"],
    "extract": ["model.safetensors", "tuned.safetensors", "--names", "original"],
    "join": ["style.safetensors", "--as", "model"],
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_a_file_that_exists_is_replaced_only_when_that_is_said(folder, capsys, command):
    main(["apply", "model.safetensors", "style.safetensors", "-o", "tuned.safetensors"])
    (folder / "out.safetensors").write_bytes(b"what was there")
    arguments = [command, *OUTPUTS[command], "-o", "out.safetensors"]
    assert main(arguments) == 2 and "--overwrite" in capsys.readouterr().err
    assert (folder / "out.safetensors").read_bytes() == b"what was there"
    assert main([*arguments, "--overwrite"]) == 0
    assert load_file("out.safetensors")


BAD = {
    "cut": lambda data: data[:-7],
    "header": lambda data: data[:20] + b"\xff" + data[21:],
    "empty": lambda data: b"",
    "text": lambda data: b"<html>not found</html>" * 9,
}


@pytest.mark.parametrize("command, change", list(product(OUTPUTS, BAD)) + [("split", change) for change in BAD])
def test_a_damaged_file_is_told_and_leaves_nothing(folder, capsys, command, change):
    main(["apply", "model.safetensors", "style.safetensors", "-o", "tuned.safetensors"])
    target = "tuned.safetensors" if command == "extract" else "style.safetensors"
    (folder / target).write_bytes(BAD[change]((folder / target).read_bytes()))
    before = files(folder)
    capsys.readouterr()
    arguments = ["split", target] if command == "split" else [command, *OUTPUTS[command], "-o", "out.safetensors"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("lokr: ") and "Traceback" not in error and target in error
    assert files(folder) == before


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["convert", "style.safetensors", "--to", "lora", "--rank", "0"], "rank is out of range"),
        (["convert", "style.safetensors", "--to", "lora", "--energy", "1.2"], "energy is out of range"),
        (["convert", "style.safetensors", "--to", "lora", "--size", "1KB"], "does not hold one rank"),
        (["convert", "model.safetensors", "--to", "lora"], "This is not an adapter"),
        (["convert", "style.safetensors", "--to", "merged"], "The model to merge into is missing"),
        (["convert", "style.safetensors", "--to", "full", "--names", "diffusers"], "LoRA alone or LoKr alone"),
        (["convert", "half.safetensors", "--to", "lora", "--names", "kohya", "--min-energy", "2"], "min_energy is out"),
        (["resize", "style.safetensors", "--rank", "-3"], "rank is out of range"),
        (["resize", "style.safetensors"], "nothing to resize to"),
        (["extract", "model.safetensors", "model.safetensors"], "nothing to extract"),
        (["extract", "model.safetensors", "style.safetensors"], "of different models"),
        (["extract", "model.safetensors", "model.safetensors", "--factor", "0"], "A factor is out of range"),
        (["join", "style.safetensors", "half.safetensors", "--as", "high"], "a part of its own"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_to_do(folder, capsys, arguments, said):
    before = files(folder)
    assert main([*arguments, "-o", "out.safetensors"]) == 2
    assert said in capsys.readouterr().err and files(folder) == before


def test_a_lora_is_merged_as_well(folder):
    up, down = torch.randn(32, 2), torch.randn(2, 32)
    save_file({"a.lora_up.weight": up, "a.lora_down.weight": down}, "lora.safetensors")
    arguments = ["convert", "lora.safetensors", "-o", "m.safetensors", "--to", "merged", "--model", "model.safetensors"]
    assert main(arguments) == 0
    expected = load_file("model.safetensors")["a.weight"] + up @ down
    assert torch.allclose(load_file("m.safetensors")["a.weight"], expected, atol=1e-5)


def test_a_shell_completes_commands_and_options(capsys):
    pytest.importorskip("shtab", reason="it writes the script")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "--inexact" in script and "extract" in script


def test_a_rank_above_the_limit_is_told(folder, capsys):
    for command in (["convert", "--to", "lora"], ["resize"]):
        arguments = [command[0], "style.safetensors", "-o", f"{command[0]}.safetensors", *command[1:], "--rank", "900"]
        assert main(arguments) == 0
        assert "rank 900 is above that of every module" in capsys.readouterr().out
