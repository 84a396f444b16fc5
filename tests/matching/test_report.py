"""What became of each module, for a person, for a program, and of several targets together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lokr_core import Adapter, Factor, LoKrMatchError, LoKrWeights, Report, Target, resolve
from lokr_core.matching._report import APPLIED, HANDED, REFUSED


@pytest.fixture
def report() -> Report:
    return Report(Adapter({}))


def blocks(report: Report, count: int, status: str, name: str = "double_blocks_{}_img_attn", **details) -> Report:
    for block in range(count):
        report.add(name.format(block), status, **details)
    return report


def test_the_headline(report):
    assert blocks(report, 3, APPLIED).headline == "3 of 3 modules applied"
    assert blocks(report, 2, HANDED, "te_{}").headline == "5 of 5 modules applied"
    assert report.complete
    assert blocks(report, 1, REFUSED, "no_{}", reason="why").headline == "5 of 6 modules applied, 1 refused"
    assert not report.complete
    assert [len(entries) for entries in (report.applied, report.handed, report.refused)] == [3, 2, 1]


def test_blocks_that_differ_by_number_alone_are_one_line(report):
    text = blocks(report, 48, APPLIED).text()
    assert text.splitlines() == ["48 of 48 modules applied", "48 × double_blocks_*_img_attn [LoKr]: applied"]


def test_numbers_in_reasons_do_not_part_them(report):
    for block in range(3):
        report.add(f"a.{block}", REFUSED, reason=f"expected weight ({block}, 4)")
    assert report.text().splitlines()[1:] == ["3 × a.* [LoKr]: refused: expected weight (0, 4)"]


@pytest.mark.parametrize("detail", ["reason", "kind"])
def test_what_differs_in_more_is_parted(report, detail):
    report.add("a.0", REFUSED, **{detail: "one"})
    report.add("a.1", REFUSED, **{detail: "other"})
    assert len(report.groups()) == 2


def test_the_refused_stand_first_then_the_larger_groups(report):
    blocks(report, 5, APPLIED, "few_{}")
    blocks(report, 9, APPLIED, "many_{}", note="alpha is 0")
    blocks(report, 7, HANDED, "handed_{}", kind="LoRA")
    blocks(report, 1, REFUSED, "rare_{}", reason="no such weight")
    blocks(report, 2, REFUSED, "bad_{}", reason="no such weight")
    assert report.text().splitlines() == [
        "21 of 24 modules applied, 3 refused",
        "note: alpha is 0 (9 modules)",
        "2 × bad_* [LoKr]: refused: no such weight",
        "1 × rare_* [LoKr]: refused: no such weight",
        "7 × handed_* [LoRA]: handed to the host",
        "9 × many_* [LoKr]: applied",
        "5 × few_* [LoKr]: applied",
    ]


def test_a_long_report_is_cut_and_says_by_how_much(report):
    for name in "abcdefghij":
        blocks(report, 3, APPLIED, name + "_{}")
    lines = report.text(lines=4).splitlines()
    assert len(lines) == 6 and lines[-1] == "… and 18 more modules in 6 groups"
    assert "more modules" not in report.text(lines=10)


def test_notes_of_file_and_target_are_shown(report):
    report.adapter.notes.append("of the file")
    report.notes.append("of the target")
    assert report.text().splitlines()[1:] == ["note: of the file", "note: of the target"]
    assert report.as_dict()["notes"] == ["of the file", "of the target"]


@pytest.mark.parametrize(
    "modes, lines",
    [
        ({"model": ("live", "as set")}, ["live: as set"]),
        ({"model": ("live", "as set"), "clip": ("live", "as set")}, ["live: as set"]),
        ({"model": ("live", "as set"), "clip": ("merge", "why")}, ["model: live: as set", "clip: merge: why"]),
        ({"model": ("", "strength 0"), "clip": ("merge", "why")}, ["model: strength 0", "clip: merge: why"]),
        ({"model": ("live", "as set"), "clip": ("", "")}, ["model: live: as set"]),
        ({"model": ("", "")}, []),
        ({}, []),
    ],
)
def test_modes_stand_behind_the_notes_with_their_part_where_parts_differ(report, modes, lines):
    report.notes.append("of the target")
    report.modes = modes
    assert report.remarks == report.as_dict()["notes"] == ["of the target", *lines]
    assert report.text().splitlines()[1:] == [f"note: {line}" for line in report.remarks]


def test_as_dict_is_json(report):
    report.adapter.path, report.adapter.producer = Path("some") / "style ü.safetensors", "LyCORIS"
    blocks(report, 2, APPLIED, where="x.weight", note="n")
    blocks(report, 1, REFUSED, "no_{}", reason="why", kind="LoRA")
    found = json.loads(json.dumps(report.as_dict()))
    assert found == {
        "headline": "2 of 3 modules applied, 1 refused", "file": str(Path("some") / "style ü.safetensors"),
        "producer": "LyCORIS", "applied": 2, "handed": 0, "refused": 1, "notes": [],
        "modules": [
            {"module": f"double_blocks_{i}_img_attn", "status": "applied", "kind": "LoKr", "where": "x.weight",
             "reason": "", "note": "n", "detail": ""} for i in range(2)
        ] + [{"module": "no_0", "status": "refused", "kind": "LoRA", "where": "", "reason": "why", "note": "",
              "detail": ""}],
    }  # fmt: skip
    assert json.loads(json.dumps(Report(Adapter({})).as_dict()))["file"] is None


def test_nothing_matched_is_an_error_only_where_there_was_something(report):
    report.raise_if_nothing_matched()
    blocks(report, 2, REFUSED, reason="no such weight")
    with pytest.raises(LoKrMatchError, match="None of the 2 modules.*\n.*double_blocks_0_img_attn\n.*no such weight"):
        report.raise_if_nothing_matched()
    for status in (HANDED, APPLIED):
        placed = blocks(Report(Adapter({})), 2, REFUSED)
        placed.add("x", status)
        placed.raise_if_nothing_matched()


def test_several_targets_together_take_a_module_where_one_of_them_does():
    update = LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(2, 2)))
    adapter = Adapter(dict.fromkeys(("unet", "te", "none"), update))
    reports = [resolve(adapter, Target({f"{name}.weight": (4, 4)}))[1] for name in ("unet", "te")]
    for one in reports:
        one.notes += ["of both", f"of {one.applied[0].module}"]
    merged = Report.merged(adapter, reports)
    assert {entry.module: entry.status for entry in merged.entries} == {
        "unet": APPLIED, "te": APPLIED, "none": REFUSED
    }  # fmt: skip
    assert merged.headline == "2 of 3 modules applied, 1 refused"
    assert merged.notes == ["of both", "of unet", "of te"]


def test_a_module_that_holds_lokr_and_more_stays_two_entries_together(report):
    report.add("layer", APPLIED)
    report.add("layer", REFUSED, kind="full difference", reason="full difference is not LoKr")
    merged = Report.merged(report.adapter, [report, report])
    assert [(entry.kind, entry.status) for entry in merged.entries] == [("LoKr", APPLIED), ("full difference", REFUSED)]


def test_what_another_target_took_is_no_mismatch():
    def of(taken: str) -> Report:
        report = Report(Adapter({}), mismatch=["another model"], notes=["another model"])
        for module in ("unet", "te"):
            report.add(module, APPLIED if module == taken else REFUSED)
        return report

    assert Report.merged(Adapter({}), [of("unet"), of("te")]).notes == []
    assert Report.merged(Adapter({}), [of("unet"), of("unet")]).notes == ["another model"]


def test_reasons_are_counted_with_examples(report):
    blocks(blocks(report, 1, REFUSED, "other_{}", reason="its shape"), 4, REFUSED, "b{}", reason="no such weight")
    first, second = report.reasons()
    assert (first.reason, first.count, first.examples) == ("no such weight", 4, ("b0", "b1", "b2"))
    assert (second.reason, second.count, second.examples) == ("its shape", 1, ("other_0",))
