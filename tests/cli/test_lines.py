"""What a person reads of the command: lines in the columns of the terminal, rounded numbers, a folder as a table."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lokr_core import Adapter, Factor, LoKrWeights, save_adapter
from lokr_core.cli import main
from lokr_core.modules import ModuleName
from tests.cli.test_tools import COMMANDS
from tests.matching.cells import recorded

NAMES = [f"transformer_blocks.{number}.attn.to_q" for number in range(3)]


def lokr() -> LoKrWeights:
    return LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(24, 24)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, an adapter that is long to describe, a LoRA, a file below, and one that is broken."""
    monkeypatch.chdir(tmp_path)
    save_file({f"diffusion_model.{name}.weight": torch.randn(48, 48) for name in NAMES}, "model.safetensors")
    metadata = {
        "ss_network_module": "lycoris.kohya",
        "ss_learning_rate": "0.00030000000000000003",
        "ss_sd_model_name": "a-checkpoint-with-a-name-that-is-long.safetensors",
        "ss_network_args": json.dumps({f"argument_{number}": "value" for number in range(8)}),
        "ss_tag_frequency": json.dumps({"a": {f"a tag of several words {number}": number for number in range(9)}}),
    }
    modules = {f"lycoris_{name.replace('.', '_')}": lokr() for name in NAMES}
    save_adapter(Adapter(modules, metadata=metadata), "style.safetensors")
    (tmp_path / "below").mkdir()
    save_adapter(Adapter({"lora_unet_x": lokr()}, {"lora_unet_x": ModuleName("lora_unet_x", "x")}),
                 "below/a-file-with-a-name-that-is-much-longer-than-any-table-can-have.safetensors")  # fmt: skip
    save_file({"x.lora_up.weight": torch.ones(4, 2), "x.lora_down.weight": torch.ones(2, 4)}, "lora.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"123")
    return tmp_path


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "style.safetensors"],
        ["inspect", "."],
        ["check", "model.safetensors", "style.safetensors"],
        ["apply", "model.safetensors", "style.safetensors", "-o", "out.safetensors"],
        ["convert", "style.safetensors", "-o", "out.safetensors", "--to", "lora", "--rank", "20", "--lossy"],
        ["inspect", "lora.safetensors"],
    ],
)
def test_lines_have_the_columns_of_the_terminal(folder, capsys, monkeypatch, arguments, width):
    monkeypatch.setenv("COLUMNS", str(width))
    main(arguments)
    said = capsys.readouterr()
    lines = (said.out + said.err).splitlines()
    assert lines and all(len(line) <= width for line in lines), max(lines, key=len)


def test_without_a_terminal_lines_have_80_columns(folder, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    main(["inspect", "style.safetensors"])
    lines = capsys.readouterr().out.splitlines()
    assert 70 < max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_80_columns(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "-h"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_numbers_are_rounded_in_the_text_and_whole_for_a_program(folder, capsys):
    main(["inspect", "style.safetensors"])
    said = capsys.readouterr().out
    assert "0.0003" in said and "0.00030000" not in said
    main(["inspect", "style.safetensors", "--json"])
    assert json.loads(capsys.readouterr().out)["trained_with"]["learning rate"] == "0.00030000000000000003"


def test_a_folder_is_a_table_of_its_files(folder, capsys):
    assert main(["inspect", "."]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "holds", "base", "model", "modules", "size"]
    (style,) = [line for line in lines if line.startswith("style.safetensors")]
    assert "LoKr" in style and " 3 " in style
    assert any(line.startswith("below/") and "…" in line and line.split()[1] == "LoKr" for line in lines)
    assert any(line.split()[:2] == ["lora.safetensors", "LoRA"] for line in lines)
    assert any(line.startswith("model.safetensors") and "no adapter" in line for line in lines)
    assert "4 of 5 files can be read" in lines
    assert lines[-1] == "broken.safetensors: This is not a safetensors file"


def test_a_folder_for_a_program(folder, capsys):
    assert main(["inspect", ".", "--json"]) == 0
    files = {each["file"]: each for each in json.loads(capsys.readouterr().out)["files"]}
    assert files["style.safetensors"]["modules"] == 3 and files["broken.safetensors"]["problem"]
    assert files["style.safetensors"]["bytes"] == (folder / "style.safetensors").stat().st_size


def test_a_folder_with_one_adapter_is_that_adapter(tmp_path, capsys):
    save_adapter(Adapter({"a": lokr()}), tmp_path / "adapter_model.safetensors")
    assert main(["inspect", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("adapter_model.safetensors\n")


def test_apply_says_for_which_base_model_the_file_looks_and_which_one_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["double_blocks.0.img_mod.lin", "double_blocks.0.img_attn.proj", "single_blocks.0.modulation.lin"]
    save_adapter(Adapter({f"diffusion_model.{name}": lokr() for name in names}), "style.safetensors")
    shapes = recorded("wan_t2v")[1]
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, "model.safetensors")
    assert main(["apply", "model.safetensors", "style.safetensors", "-o", "out.safetensors"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "this looks like an adapter for Flux.1; the model is Wan" in said
    assert not (tmp_path / "out.safetensors").exists()
