"""The benchmarks that need what a test machine lacks, an accelerator or an hour: their dry runs, on small models."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import gpu, gpu_fit, gpu_models, gpu_table
from benchmarks.measure import Run, paired_times
from lokr_core.kronecker import GPU, Rates

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
