"""The command ``lokr``: what it prints, what it writes and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import Adapter, Factor, LoKrWeights, load_adapter, merge_adapter, save_adapter
from lokr_core.adapter import Foreign
from lokr_core.cli import main


def lokr(out=8, columns=8) -> LoKrWeights:
    return LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(out // 2, columns // 2)))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, an adapter for it, one half of which is for it, and one for another model."""
    monkeypatch.chdir(tmp_path)
    save_file({"a.weight": torch.randn(8, 8).half(), "b.weight": torch.randn(4, 8).half()}, "model.safetensors")
    save_adapter(Adapter({"a": lokr()}), "style.safetensors")
    save_adapter(Adapter({"a": lokr(), "c": lokr()}), "half.safetensors")
    save_adapter(Adapter({"c": lokr()}), "other.safetensors")
    return tmp_path


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lokr_core.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_inspect(folder, capsys):
    assert main(["inspect", "style.safetensors"]) == 0
    assert "1 Linear" in capsys.readouterr().out
    assert main(["inspect", "style.safetensors", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["modules"][0]["name"] == "a" and found["heat"]["values"] == [[found["modules"][0]["norm"]]]


def test_apply(folder, capsys):
    arguments = ["apply", "model.safetensors", "style.safetensors", "-o", "out.safetensors", "--strength", "-0.5"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "1 of 1 modules applied" in out and "written: out.safetensors" in out
    expected = load_file("model.safetensors")
    merge_adapter(expected, load_adapter("style.safetensors"), -0.5)
    written = load_file("out.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())


def test_apply_and_check_take_the_expert_that_is_chosen(folder, capsys):
    both = {f"transformer{n}.a": lokr() for n in ("", "_2")}
    save_adapter(Adapter(both), "both.safetensors")
    assert main(["check", "model.safetensors", "both.safetensors"]) == 1
    assert "two experts" in capsys.readouterr().out
    assert main(["apply", "model.safetensors", "both.safetensors", "-o", "out.safetensors"]) == 2
    assert "expert=high or expert=low" in capsys.readouterr().err
    for expert, update in zip(("high", "low"), both.values(), strict=True):
        assert main(["check", "model.safetensors", "both.safetensors", "--expert", expert]) == 0
        arguments = [
            "apply",
            "model.safetensors",
            "both.safetensors",
            "-o",
            f"{expert}.safetensors",
            "--expert",
            expert,
        ]
        assert main(arguments) == 0
        expected = load_file("model.safetensors")
        merge_adapter(expected, Adapter({"a": update}))
        assert torch.equal(load_file(f"{expert}.safetensors")["a.weight"], expected["a.weight"])


@pytest.mark.parametrize("name, dtype", [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_apply_with_a_dtype(folder, capsys, name, dtype):
    arguments = ["apply", "model.safetensors", "style.safetensors", "-o", "out.safetensors", "--dtype", name, "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["applied"] == 1
    assert {tensor.dtype for tensor in load_file("out.safetensors").values()} == {dtype}


def test_apply_says_what_found_no_place(folder, capsys):
    assert main(["apply", "model.safetensors", "half.safetensors", "-o", "out.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "1 of 2 modules applied, 1 refused" in out and "no such weight" in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["apply", "model.safetensors", "other.safetensors", "-o", "out.safetensors"], "None of the 1 modules"),
        (["apply", "model.safetensors", "style.safetensors", "-o", "model.safetensors"], "--overwrite-model"),
        (["apply", "model.safetensors", "style.safetensors", "-o", "out.safetensors", "-s", "nan"], "finite number"),
        (["apply", "gone.safetensors", "style.safetensors", "-o", "out.safetensors"], "No such file"),
        (["inspect", "model.safetensors"], "There is no LoKr in this file"),
        (["check", "model.safetensors", "model.safetensors"], "There is no LoKr in this file"),
        (["demo", "--out", "style.safetensors"], "cannot be written"),
    ],
)
def test_an_error_is_told_on_stderr_and_writes_nothing(folder, capsys, arguments, said):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and said in captured.err and "Traceback" not in captured.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_model_is_overwritten_where_that_is_said(folder):
    before = load_file("model.safetensors")["a.weight"].clone()
    arguments = ["apply", "model.safetensors", "style.safetensors", "-o", "model.safetensors"]
    assert main([*arguments, "--overwrite-model"]) == 0
    assert not torch.equal(load_file("model.safetensors")["a.weight"], before)


def test_check(folder, capsys):
    assert main(["check", "model.safetensors", "style.safetensors"]) == 0
    assert main(["check", "model.safetensors", "half.safetensors"]) == 1
    assert main(["check", "model.safetensors", "other.safetensors"]) == 1
    capsys.readouterr()
    assert main(["check", "model.safetensors", "half.safetensors", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["applied"], found["refused"]) == (1, 1)


def test_check_counts_what_the_library_does_not_apply_as_unmatched(folder):
    lora = {"b.lora_up.weight": torch.zeros(4, 1), "b.lora_down.weight": torch.zeros(1, 8)}
    save_adapter(Adapter({"a": lokr()}, foreign=Foreign(lora)), "with-lora.safetensors")
    assert main(["check", "model.safetensors", "with-lora.safetensors"]) == 0
    loha = {f"b.hada_w{i}_{x}": torch.zeros(4, 8) for i in (1, 2) for x in "ab"}
    save_adapter(Adapter({"a": lokr()}, foreign=Foreign(loha)), "with-loha.safetensors")
    assert main(["check", "model.safetensors", "with-loha.safetensors"]) == 1


def test_combine(folder, capsys):
    assert main(["combine", "style.safetensors:0.5", "half.safetensors", "-o", "out.safetensors"]) == 0
    assert "1 modules as they are, 1 as full differences" in capsys.readouterr().out
    written, half = load_adapter("out.safetensors"), load_adapter("half.safetensors")
    expected = 0.5 * load_adapter("style.safetensors")["a"].delta() + half["a"].delta()
    assert torch.allclose(written["a"].delta(), expected, atol=1e-5)
    assert torch.equal(written["c"].delta(), half["c"].delta())
    arguments = ["combine", "style.safetensors:0.5", "half.safetensors", "-o", "new.safetensors"]
    assert main([*arguments, "--overlap", "nearest LoKr", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kept"], found["nearest"]) == (1, 1) and found["worst"] > 0
    assert main([*arguments, "--overlap", "refuse", "--overwrite"]) == 2
    assert "their sum is not a LoKr" in capsys.readouterr().err


def test_exit_codes_of_the_process(folder):
    assert run("check", "model.safetensors", "style.safetensors").returncode == 0
    assert run("check", "model.safetensors", "half.safetensors").returncode == 1
    failed = run("inspect", "model.safetensors")
    assert failed.returncode == 2 and failed.stdout == "" and "Traceback" not in failed.stderr
    assert run("nonsense").returncode == 2


def test_version_and_help():
    assert run("--version").stdout.startswith("lokr ")
    help_text = run("--help").stdout
    assert all(command in help_text for command in ("inspect", "apply", "check", "combine", "demo"))


def test_a_terminal_without_the_signs_gets_the_text_all_the_same(folder):
    found = run("inspect", "style.safetensors", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert found.returncode == 0 and "1 Linear" in found.stdout


def test_json_is_all_there_is_on_stdout(folder):
    for arguments in (["inspect", "half.safetensors"], ["check", "model.safetensors", "half.safetensors"]):
        json.loads(run(*arguments, "--json").stdout)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals are POSIX's")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_apply_leaves_no_file(folder, kind):
    code = (
        "import contextlib, signal, sys, time, lokr_core.cli as cli\n"
        # A shell starts what runs in its background deaf to SIGINT, and so to this test's.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "busy = lambda done, total: (print('busy', flush=True), time.sleep(30))\n"
        "cli._merge.progress_bar = lambda label: contextlib.nullcontext(busy)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "apply", "model.safetensors", "style.safetensors", "-o", "out.safetensors"]
    before = sorted(os.listdir())
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "busy\n"
        assert len(os.listdir()) == len(before) + 1  # the temporary file
        process.send_signal(kind)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors == "lokr: interrupted\n"
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX's")
def test_a_reader_that_goes_away_is_no_error(folder):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lokr_core.cli", "inspect", "style.safetensors"]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "")
