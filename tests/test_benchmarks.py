"""The benchmarks that need what a test machine lacks, an accelerator or an hour: their dry runs, on small models."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, gpu_fit, gpu_models, gpu_table, live, live_unet
from benchmarks.measure import Run, paired_times
from benchmarks.updates import FORMS, WHOLE
from lokr_core.kronecker import GPU, Rates
from lokr_core.live import FACTORED, THROUGH

STEPS = {"base", "merged", "live, factored", "live, through the weight", "live, as planned"}


def numbers(found) -> list[float]:
    """Every number in a row."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        return [number for entry in found for number in numbers(entry)]
    return [float(found)] if isinstance(found, (int, float)) else []


@pytest.fixture(scope="module")
def results() -> dict[str, list[dict]]:
    pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: pip install diffusers")
    pytest.importorskip("peft", reason="NO PEFT HERE: pip install peft")
    return gpu.run("cpu", tiny=True)


def test_the_dry_run_gives_every_row_with_finite_numbers(results):
    rows = {(row["case"], row["form"]): row for row in results["steps"]}
    assert len(rows) == len(gpu_models.CASES) * len(gpu.FORMS)
    for (_, form), row in rows.items():
        peft = set() if "DoRA" in form else {"PEFT"}
        assert "errors" not in row
        assert set(row["ms"]) == set(row["of the base"]) == set(row["peak MiB"]) == STEPS | peft
        assert set(row["training ms"]) == set(row["training peak MiB"]) == {"base", "ours"} | peft
        assert set(row["changed strength GB/s"]) == {"merge", "copy"}
        assert 0 <= row["share through the weight"] <= 1 and row["modules"] >= 10
        assert row["difference from merged"] < 0.02, "live is not what merge is"
    for part in results.values():
        assert part and all(map(math.isfinite, numbers(part)))


def test_every_layer_that_a_model_runs_is_among_the_kinds(results):
    for row in results["steps"]:
        kinds = [layer for layer in results["layers"] if (layer["case"], layer["form"]) == (row["case"], row["form"])]
        assert sum(kind["count"] for kind in kinds) == row["modules"]


def test_the_table_has_every_case(results):
    text = "\n".join(gpu_table.lines(results))
    assert all(text.count(f"{row['case']}, {row['form']}") >= 4 for row in results["steps"])
    assert "Fitted to these layers: Rates(" in text


def test_constants_are_found_again_from_what_they_cost():
    torch.manual_seed(0)
    scale = torch.tensor([1e9, 1e7, 1e7, 1, 1, 1])
    rows = []
    for _ in range(20):
        work = {name: (torch.rand(6) * scale).tolist() for name in ("factored", "through")}
        added = {name: 1e6 * sum(a * b for a, b in zip(each, GPU, strict=True)) for name, each in work.items()}
        rows.append({"base us": 100.0, "added us": added, "work": work})
    [found] = gpu_fit.constants(rows)
    assert Rates(**found) == pytest.approx(GPU, rel=1e-4)


def test_no_fitted_constant_is_negative():
    work = {"factored": [1.0, 0, 0, 1, 0, 0], "through": [2.0, 0, 0, 1, 0, 0]}
    [found] = gpu_fit.constants([{"base us": 1.0, "added us": {"factored": 4.0, "through": 3.0}, "work": work}])
    assert min(found.values()) == 0 and found["linear"] > 0


def test_without_an_accelerator_the_part_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "accelerator", lambda: None)
    assert gpu.run() == {} and "left out" in capsys.readouterr().out


def test_a_part_that_fails_is_told_and_the_others_go_on():
    def out_of_memory() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    row: dict = {}
    gpu._try(row, out_of_memory, torch.device("cpu"))
    assert "out of memory" in row["errors"]["out_of_memory"]


def test_paired_times_compare_within_a_turn_and_end_in_time():
    seen: list[str] = []
    runs = {name: Run(lambda name=name: seen.append(name)) for name in ("base", "ours")}
    times = paired_times(runs, seconds=0)
    assert seen == ["base", "ours"] * 2, "a turn that warms up, and one that counts"
    assert times["base"].of_base == 1 and times["ours"].turns == 1
    assert paired_times(runs, seconds=60, most=3)["ours"].turns == 3


WAYS = {"base", "factored", "through", "as planned"}
SMALL = (live.Layer(64, 96, 40), live.Layer(32, 32, 8, (3, 3)))


def test_live_is_timed_as_whole_layers_each_way():
    rows = live.layers(0, [(layer, form) for layer in SMALL for form in FORMS])
    assert len(rows) == len(SMALL) * len(FORMS)
    for row in rows:
        assert set(row["ms"]) == set(row["of the base"]) == WAYS and row["way"] in (FACTORED, THROUGH)
        assert all(map(math.isfinite, numbers(row))) and row["of the base"]["base"] == 1


def test_live_is_timed_in_a_whole_unet_each_way_if_there_is_time(monkeypatch):
    pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: pip install diffusers")
    planned = live_unet.unet(0, [(8, 1)], gpu_models.small_unet)
    assert [set(row["ms"]) for row in planned] == [{"base", "as planned"}] * len(FORMS)
    monkeypatch.setattr(live_unet, "MOST", 1)
    rows = live_unet.unet(600, [(8, 2)], gpu_models.small_unet)
    assert all(set(row["ms"]) == WAYS and 0 <= row["share through the weight"] <= 1 for row in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_live_is_compared_with_another_bypass(monkeypatch):
    pytest.importorskip("lycoris", reason="NO LYCORIS HERE: pip install lycoris-lora")
    quiet = SimpleNamespace(
        mallopt=lambda *_: 1, malloc_trim=lambda _: 1
    )  # it would slow down the tests after this one
    monkeypatch.setattr(live, "_libc", quiet)
    rows = live.peers("LyCORIS", live.lycoris_bypass, 0, SMALL, (WHOLE,))
    for row in rows:
        runs = {"base", "LyCORIS", "ours"}
        assert set(row["ms"]) == set(row["peak MiB"]) == runs and row["times faster"] > 0
    text = "\n".join(live.lines({"layers": [], "unet": [], "peers": rows}))
    assert all(row["case"] in text for row in rows)
