"""``apply_to_file``: what it writes is what ``merge_adapter`` makes, whole or not at all, one tensor at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import (
    Adapter,
    Factor,
    LoKrFileError,
    LoKrMatchError,
    LoKrValueError,
    LoKrWeights,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from lokr_core._files import DTYPES, TensorInfo, read_header
from lokr_core.tools import apply_to_file, check_file
from lokr_core.tools._checkpoint import MERGES_KEY


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def numbers(generator, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=generator).to(dtype)


def checkpoint(generator, dtype) -> dict[str, torch.Tensor]:
    return {
        "a.weight": numbers(generator, 24, 12, dtype=dtype),
        "a.bias": numbers(generator, 24, dtype=dtype),
        "ids": torch.arange(3),
        "conv.weight": numbers(generator, 8, 6, 3, 3, dtype=dtype),
        "dora.weight": numbers(generator, 8, 8, dtype=dtype),
        "untouched.weight": numbers(generator, 5, 7, dtype=dtype),
        "scalar": torch.tensor(2.5, dtype=dtype),
        "empty": torch.empty(0, 4, dtype=dtype),
    }


def adapter_for(generator) -> Adapter:
    def draw(*shape):
        return numbers(generator, *shape)

    low = Factor(a=draw(6, 2), b=draw(2, 3))
    return Adapter(
        {
            "a": LoKrWeights(Factor(draw(4, 4)), low, scaling=0.5, alpha=1.0),
            "conv": LoKrWeights(Factor(draw(2, 2)), Factor(draw(4, 3, 3, 3))),
            "dora": LoKrWeights(Factor(draw(2, 2)), Factor(draw(4, 4)), dora_scale=draw(8, 1).abs()),
        }
    )


@pytest.fixture
def files(tmp_path, generator):
    """(model, adapter, out): the model in fp16."""
    save_file(checkpoint(generator, torch.float16), tmp_path / "model.safetensors", {"title": "a model"})
    save_adapter(adapter_for(generator), tmp_path / "style.safetensors")
    return tmp_path / "model.safetensors", tmp_path / "style.safetensors", tmp_path / "out.safetensors"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and bool((a.flatten().view(torch.uint8) == b.flatten().view(torch.uint8)).all())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_it_writes_what_merge_adapter_makes_bit_for_bit(tmp_path, generator, dtype):
    tensors, adapter = checkpoint(generator, dtype), adapter_for(generator)
    save_file(tensors, tmp_path / "model.safetensors")
    report = apply_to_file(tmp_path / "model.safetensors", adapter, tmp_path / "out.safetensors", 0.8)
    merge_adapter(tensors, adapter, 0.8)
    written = load_file(tmp_path / "out.safetensors")
    assert report.complete and written.keys() == tensors.keys()
    assert all(same_bits(written[name], tensor) for name, tensor in tensors.items())
    assert list(read_header(tmp_path / "out.safetensors").tensors)  # its own reader trusts it as well


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_with_a_dtype_it_merges_in_fp32_and_rounds_once(files, dtype):
    model, style, out = files
    apply_to_file(model, style, out, 0.8, dtype)
    tensors = {n: t.float() if t.is_floating_point() else t for n, t in load_file(model).items()}
    merge_adapter(tensors, load_adapter(style), 0.8)
    written = load_file(out)
    assert written["ids"].dtype == torch.int64
    for name, tensor in tensors.items():
        assert same_bits(written[name], tensor.to(dtype) if tensor.is_floating_point() else tensor), name


def test_several_updates_of_one_weight_with_dora_refer_to_the_base(tmp_path, generator, monkeypatch):
    from lokr_core.tools import _checkpoint as module

    adapter = adapter_for(generator)
    tensors = checkpoint(generator, torch.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    resolve = module.resolve
    monkeypatch.setattr(module, "resolve", lambda *a: (resolve(*a)[0] * 2, resolve(*a)[1]))
    apply_to_file(tmp_path / "model.safetensors", adapter, tmp_path / "out.safetensors")
    once = tensors["dora.weight"].clone()
    adapter["dora"].add_to_(once)
    twice = load_file(tmp_path / "out.safetensors")["dora.weight"]
    torch.testing.assert_close(twice - once, once - tensors["dora.weight"], rtol=1e-4, atol=1e-5)


def test_metadata_is_kept_and_every_merge_noted(files):
    model, style, out = files
    apply_to_file(model, style, out, 0.8)
    apply_to_file(out, style, out, -0.5, overwrite_input=True)
    metadata = read_header(out).metadata
    assert metadata["title"] == "a model"
    merges = json.loads(metadata[MERGES_KEY])
    assert [(m["adapter"], m["strength"], m["modules"]) for m in merges] == [
        ("style.safetensors", 0.8, 3),
        ("style.safetensors", -0.5, 3),
    ]
    assert all(m["version"] for m in merges)


def test_tensors_stay_aligned_when_the_dtype_changes(files):
    model, style, out = files
    apply_to_file(model, style, out, 1.0, torch.float32)
    assert all(info.start % info.dtype.itemsize == 0 for info in read_header(out).tensors.values())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_no_file(files, error):
    model, style, out = files
    before = sorted(path.name for path in model.parent.iterdir())

    def interrupt(done, total):
        if done > total / 2:
            raise error

    with pytest.raises(error):
        apply_to_file(model, style, out, progress=interrupt)
    assert sorted(path.name for path in model.parent.iterdir()) == before


def test_an_interrupted_run_leaves_the_old_output(files):
    model, style, out = files
    out.write_bytes(b"what was there")
    with pytest.raises(KeyboardInterrupt):
        apply_to_file(model, style, out, progress=lambda done, total: (_ for _ in ()).throw(KeyboardInterrupt))
    assert out.read_bytes() == b"what was there"


def test_progress_runs_from_nothing_to_all_bytes(files):
    model, style, out = files
    told = []
    apply_to_file(model, style, out, progress=lambda done, total: told.append((done, total)))
    total = sum(info.stop - info.start for info in read_header(model).tensors.values())
    assert told == sorted(told) and told[-1] == (total, total)


def test_an_adapter_for_another_model_writes_nothing(files, generator):
    model, _, out = files
    other = Adapter({"z": LoKrWeights(Factor(numbers(generator, 2, 2)), Factor(numbers(generator, 2, 2)))})
    with pytest.raises(LoKrMatchError, match="None of the 1 modules"):
        apply_to_file(model, other, out)
    assert not out.exists()


def test_the_output_may_be_the_model_only_where_that_is_said(files):
    model, style, _ = files
    before = model.read_bytes()
    link = model.with_name("link.safetensors")
    link.symlink_to(model)
    for out in (model, link):
        with pytest.raises(LoKrFileError, match="The output is the model itself"):
            apply_to_file(model, style, out)
    assert model.read_bytes() == before
    with pytest.raises(LoKrFileError, match="The output is the adapter itself"):
        apply_to_file(model, style, style, overwrite_input=True)
    apply_to_file(model, style, model, overwrite_input=True)
    assert model.read_bytes() != before


def test_an_output_that_cannot_be_written_is_said_before_the_work(files):
    model, style, out = files
    with pytest.raises(LoKrFileError, match="folder does not exist"):
        apply_to_file(model, style, out.parent / "nowhere" / "out.safetensors")
    with pytest.raises(LoKrFileError, match="is a folder"):
        apply_to_file(model, style, out.parent)


@pytest.mark.parametrize("scale", ["a.scale_weight", "a.weight.absmax"])
def test_a_weight_quantized_with_scales_is_refused(files, generator, scale):
    model, style, out = files
    save_file({**checkpoint(generator, torch.float8_e4m3fn), scale: torch.ones(1)}, model)
    with pytest.raises(LoKrFileError, match="quantized") as error:
        apply_to_file(model, style, out)
    assert error.value.module == "a.weight" and not out.exists()


def test_an_integer_weight_is_refused(files):
    model, style, out = files
    save_file({"a.weight": torch.zeros(24, 12, dtype=torch.int8)}, model)
    with pytest.raises(LoKrFileError, match="quantized"):
        apply_to_file(model, style, out)


def test_a_number_out_of_the_dtypes_range_is_an_error(files):
    model, style, out = files
    with pytest.raises(LoKrValueError, match="range of F16") as error:
        apply_to_file(model, style, out, strength=1e6)
    assert "bf16" in str(error.value) and not out.exists()
    apply_to_file(model, style, out, strength=1e6, dtype=torch.bfloat16)


def test_a_base_weight_that_is_not_finite_is_merged_all_the_same(files, generator):
    model, style, out = files
    tensors = checkpoint(generator, torch.float16)
    tensors["a.weight"][0, 0] = float("inf")
    save_file(tensors, model)
    apply_to_file(model, style, out)
    assert load_file(out)["a.weight"].isinf().sum() == 1


def test_check_reads_the_header_alone(files):
    model, style, _ = files
    size = model.stat().st_size
    with model.open("r+b") as file:  # nothing but zeros where the tensors were
        header = 8 + int.from_bytes(file.read(8), "little")
        file.truncate(header)
        file.truncate(size)
    report = check_file(model, style)
    assert report.complete and len(report.applied) == 3


MEMORY = """
import resource, sys, torch
from lokr_core import Adapter, Factor, LoKrWeights
from lokr_core.tools import apply_to_file
torch.set_num_threads(1)
update = LoKrWeights(Factor(torch.ones(8, 8)), Factor(torch.ones(128, 256)))
adapter = Adapter({f"m{i}": update for i in range(0, 150, 5)})
apply_to_file(sys.argv[1], adapter, sys.argv[3])  # the small one: what torch itself takes is paid for
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
apply_to_file(sys.argv[2], adapter, sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def zeros_file(path: Path, tensors: int, rows: int, columns: int) -> int:
    """A safetensors file of fp16 zeros, as a hole: it takes no room on the disk. Returns its size."""
    size = rows * columns * 2
    entries = {
        f"m{i}.weight": {"dtype": "F16", "shape": [rows, columns], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(tensors)
    }
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + tensors * size)
    return tensors * size


def test_a_checkpoint_is_never_in_memory(tmp_path):
    pytest.importorskip("resource", reason="peak memory is asked of the operating system")
    small, large, out = (tmp_path / f"{name}.safetensors" for name in ("small", "large", "out"))
    zeros_file(small, 1, 1024, 2048)
    size = zeros_file(large, 150, 1024, 2048)  # 4 MiB each, 600 MiB in all
    command = [sys.executable, "-c", MEMORY, *map(str, (small, large, out))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(run.stdout) * unit < size / 12
    assert set(read_header(out).tensors) == set(read_header(large).tensors)
    assert isinstance(read_header(out).tensors["m0.weight"], TensorInfo)
    assert read_header(out).tensors["m0.weight"].dtype == DTYPES["F16"]
