"""``extract``: what was merged into a checkpoint is found again, and the energy that it tells is the true one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import Adapter, LoKrFileError, LoKrShapeError, LoKrValueError, LoKrWeights, merge_adapter
from lokr_core.conversion import Keep
from lokr_core.tools import Extraction, apply_to_file, extract, read_updates
from tests.interchange.adapters import LOW, WHOLE, lokr

SHAPES = {"blocks.0.attn": (64, 96), "blocks.0.ff": (96, 64), "blocks.1.conv": (64, 32, 3, 3)}
FORMS = {
    "factor 8": dict(form=WHOLE, factor=8),
    "balanced": dict(form=WHOLE, factor=-1),
    "rank 4": dict(form=LOW, factor=8, rank=4),
}
# Unit roundoff: half of a number's last place.
ROUNDOFF = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def base_tensors(shapes=SHAPES) -> dict[str, torch.Tensor]:
    tensors = {f"{name}.weight": torch.randn(shape) / shape[1] ** 0.5 for name, shape in shapes.items()}
    return {**tensors, "blocks.0.attn.bias": torch.randn(64), "norm.weight": torch.ones(64)}


def scaled(weights: LoKrWeights, base: torch.Tensor, share: float) -> LoKrWeights:
    """The update at ``share`` of the base weight's norm."""
    ratio = share * float(base.norm() / weights.delta().norm())
    return LoKrWeights(weights.w1, weights.w2.map(lambda t: t * (ratio**0.5 if weights.rank else ratio)))


def checkpoints(folder, adapter: Adapter, base: dict[str, torch.Tensor], dtype=torch.float32):
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    merge_adapter(tuned, adapter)
    for name, tensors in (("base", base), ("tuned", tuned)):
        save_file({key: t.to(dtype).contiguous() for key, t in tensors.items()}, folder / f"{name}.safetensors")
    return folder / "base.safetensors", folder / "tuned.safetensors"


@pytest.mark.parametrize("form", FORMS)
def test_a_merged_lokr_is_found_with_its_factors_among_many(tmp_path, form):
    base = base_tensors()
    modules = {name: lokr(shape, **FORMS[form]).fit(shape) for name, shape in SHAPES.items()}
    paths = checkpoints(tmp_path, Adapter(dict(modules)), base)
    keep = Keep(rank=4) if form == "rank 4" else None
    found = extract(*paths, tmp_path / "out.safetensors", Extraction("original", (-1, 2, 4, 8, 16), keep))
    assert found.energy > 1 - 1e-8
    read = read_updates(tmp_path / "out.safetensors").adapter
    for name, weights in modules.items():
        again = read[name].fit(weights.shape)
        assert again.w1.shape == weights.w1.shape and again.rank == weights.rank
        assert torch.dist(again.delta(), weights.delta()) <= 1e-5 * weights.delta().norm()


@pytest.mark.parametrize("share", [0.003, 0.01, 0.03])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_half_precision_it_is_off_by_the_rounding_that_the_best_product_keeps(tmp_path, dtype, share):
    """The noise that stays is its part in the tangent space of the products, to first order."""
    shape = (256, 192)
    base = {"a.weight": (torch.randn(shape) / 16).to(dtype).float()}
    weights = scaled(lokr(shape, WHOLE, factor=8), base["a.weight"], share)
    paths = checkpoints(tmp_path, Adapter({"a": weights}), base, dtype)
    noise = load_file(paths[1])["a.weight"].float() - base["a.weight"] - weights.delta()
    rearranged = noise.unflatten(1, (8, -1)).unflatten(0, (8, -1)).transpose(1, 2).reshape(64, -1)
    u, v = (t.flatten() / t.norm() for t in (weights.w1.whole, weights.w2.whole))
    left, right = torch.outer(u, u @ rearranged), torch.outer(rearranged @ v, v)
    kept = float((left + right - torch.outer(u, v) * (u @ rearranged @ v)).norm())
    extract(*paths, tmp_path / "out.safetensors", Extraction("original", (8,)))
    found = read_updates(tmp_path / "out.safetensors").adapter["a"]
    assert torch.dist(found.delta(), weights.delta()) <= 1.5 * kept


def test_what_is_lost_of_a_random_difference_is_what_is_told(tmp_path):
    base = base_tensors()
    tuned = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in base.items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    paths = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    found = extract(*paths, tmp_path / "out.safetensors", Extraction("original", differences=True))
    read = read_updates(tmp_path / "out.safetensors").adapter
    for made in found.modules:
        delta = tuned[f"{made.name.full}.weight"] - base[f"{made.name.full}.weight"]
        lost = float((read[made.name.full].delta() - delta).norm() / delta.norm()) ** 2
        assert made.energy == pytest.approx(1 - lost, abs=1e-4)
    assert found.energy < 0.9
    assert {key.rpartition(".")[2] for key in found.other} == {"diff_b", "w_norm"}


def test_layers_of_little_energy_become_lora_or_are_left_out(tmp_path):
    base = base_tensors()
    up, down = torch.randn(64, 2), torch.randn(2, 96)
    tuned = {**base, "blocks.0.attn.weight": base["blocks.0.attn.weight"] + 0.01 * up @ down}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    paths = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    options = dict(names="original", min_energy=0.9)
    found = extract(*paths, tmp_path / "out.safetensors", Extraction(keep=Keep(energy=0.9999), **options))
    assert [(made.form, made.rank) for made in found.modules] == [("LoRA", 2)] and found.energy > 0.999
    with pytest.raises(LoKrFileError, match="No layer that an adapter can hold"):
        extract(*paths, tmp_path / "out2.safetensors", Extraction(otherwise="leave out", **options))


FLUX = {
    "double_blocks.0.img_attn.qkv.weight": (96, 32),
    "double_blocks.0.img_attn.proj.weight": (32, 32),
    "double_blocks.0.img_mod.lin.weight": (192, 32),
    "single_blocks.0.linear1.weight": (224, 32),
    "img_in.weight": (32, 16),
    "vector_in.in_layer.weight": (32, 24),
}


def test_q_k_and_v_that_were_trained_apart_are_found_apart(tmp_path):
    base = {name: torch.randn(shape) / 6 for name, shape in FLUX.items()}
    tuned = dict(base)
    deltas = [0.1 * lokr((32, 32), WHOLE, factor=4).delta() for _ in range(3)]
    tuned["double_blocks.0.img_attn.qkv.weight"] = base["double_blocks.0.img_attn.qkv.weight"] + torch.cat(deltas)
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    paths = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    found = extract(*paths, tmp_path / "out.safetensors", Extraction("comfyui", (4,)))
    assert [made.name.path.rpartition(".")[2] for made in found.modules] == ["to_q", "to_k", "to_v"]
    assert found.energy > 1 - 1e-8
    merged = tmp_path / "merged.safetensors"
    assert apply_to_file(paths[0], tmp_path / "out.safetensors", merged).complete
    for name, tensor in load_file(merged).items():
        assert torch.allclose(tensor, tuned[name], atol=1e-5)


@pytest.mark.parametrize("form", ["factor 8", "rank 4"])
def test_a_merged_dora_is_found_again(tmp_path, form):
    base = base_tensors({"a": (64, 96)})
    weights = scaled(lokr((64, 96), **FORMS[form]), base["a.weight"], 0.05)
    norms = base["a.weight"].norm(dim=1, keepdim=True) * (1 + 0.05 * torch.randn(64, 1))
    dora = LoKrWeights(weights.w1, weights.w2, 1.0, norms)
    paths = checkpoints(tmp_path, Adapter({"a": dora}), base)
    keep = Keep(rank=4) if form == "rank 4" else None
    found = extract(*paths, tmp_path / "out.safetensors", Extraction("original", (4, 8), keep, dora=True))
    assert found.modules[0].energy > 1 - 1e-6
    assert apply_to_file(paths[0], tmp_path / "out.safetensors", tmp_path / "again.safetensors").complete
    again, tuned = load_file(tmp_path / "again.safetensors")["a.weight"], load_file(paths[1])["a.weight"]
    assert torch.dist(again, tuned) <= 1e-5 * tuned.norm()


def bad_pair(tmp_path, change) -> tuple:
    base = base_tensors()
    tuned = {name: tensor + 0.01 for name, tensor in base.items()}
    change(base, tuned)
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    return tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", tmp_path / "out.safetensors"


@pytest.mark.parametrize(
    "change, error, said",
    [
        (lambda base, tuned: tuned.update(base), LoKrFileError, "nothing to extract"),
        (lambda base, tuned: [tuned.update({f"x.{n}": tuned.pop(n)}) for n in list(tuned)], LoKrFileError, "different"),
        (
            lambda base, tuned: tuned.update({"blocks.0.ff.weight": torch.randn(8, 8)}),
            LoKrShapeError,
            "different architectures",
        ),
        (lambda base, tuned: tuned["blocks.0.ff.weight"].fill_(float("nan")), LoKrValueError, "NaN or Inf"),
        (
            lambda base, tuned: base.update({"blocks.0.ff.weight": base["blocks.0.ff.weight"].to(torch.float8_e4m3fn)}),
            LoKrValueError,
            "quantized",
        ),
    ],
)
def test_bad_checkpoints_are_told_with_what_to_do(tmp_path, change, error, said):
    *paths, out = bad_pair(tmp_path, change)
    with pytest.raises(error, match=said) as raised:
        extract(*paths, out, Extraction("original"))
    assert raised.value.hint and not out.exists()


def test_missing_tensors_are_counted(tmp_path):
    *paths, out = bad_pair(tmp_path, lambda base, tuned: tuned.pop("blocks.0.ff.weight"))
    found = extract(*paths, out, Extraction("original"))
    assert "1 tensors are missing in the tuned checkpoint" in found.text()


def test_an_interrupted_extraction_leaves_no_file(tmp_path):
    *paths, out = bad_pair(tmp_path, lambda base, tuned: None)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(*paths, out, Extraction("original"), progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.safetensors", "tuned.safetensors"]


MEMORY = """
import resource, sys, torch
from lokr_core.tools import Extraction, extract
torch.set_num_threads(1)
extract(sys.argv[1], sys.argv[2], sys.argv[5], Extraction("original", (8,)))  # what torch itself takes is paid for
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
extract(sys.argv[3], sys.argv[4], sys.argv[5], Extraction("original", (8,)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def large_files(folder, name: str, count: int) -> list[str]:
    """Two files of ``count`` bf16 weights that differ in the first of them, the rest holes of zeros."""
    paths = []
    for end in ("base", "tuned"):
        size = 1024 * 1024 * 2
        entries = {f"m{i}.weight": (i * size, (i + 1) * size) for i in range(count)}
        header = {n: {"dtype": "BF16", "shape": [1024, 1024], "data_offsets": list(o)} for n, o in entries.items()}
        text = json.dumps(header).encode()
        path = folder / f"{name}-{end}.safetensors"
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            if end == "tuned":
                file.write(torch.randn(1024, 1024).bfloat16().view(torch.uint8).numpy().tobytes())
            file.truncate(8 + len(text) + count * size)
        paths.append(str(path))
    return paths


def test_checkpoints_are_never_in_memory(tmp_path):
    pytest.importorskip("resource", reason="peak memory is asked of the operating system")
    paths = [*large_files(tmp_path, "small", 1), *large_files(tmp_path, "large", 200)]  # 400 MiB each
    command = [sys.executable, "-c", MEMORY, *paths, str(tmp_path / "out.safetensors")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(run.stdout) * unit < 400 * 2**20 / 10
