"""The table of FORMATS in a real ComfyUI: its own classes' weights, found by the bridge under every naming."""

from __future__ import annotations

import json

from tests.matching.cells import DATA, FURTHER, NAMINGS, TABLE


def found(comfyui, folder, architectures: dict[str, str]) -> list[tuple[int, int]]:
    """(modules found, modules of the file) in every cell of the table of these architectures, which is printed."""
    out = folder / "table.json"
    comfyui.run(folder, {"do": "cells", "architectures": list(architectures.values()), "out": str(out)})
    table = json.loads(out.read_text())
    print("\n| architecture |" + "".join(f" {naming} |" for naming in NAMINGS))
    for title, name in architectures.items():
        print(f"| {title} |" + "".join(f" {some}/{total} |" for some, total in table[name].values()))
    return [tuple(cell) for row in table.values() for cell in row.values()]


def test_104_of_104_cells(comfyui, tmp_path):
    cells = found(comfyui, tmp_path, TABLE)
    assert len(cells) == 104
    assert [some == total for some, total in cells] == [True] * 104


def test_the_architectures_that_came_to_the_tables_since(comfyui, tmp_path):
    here = [name for name in FURTHER if "comfyui" in json.loads((DATA / f"{name}.json").read_text())]
    cells = found(comfyui, tmp_path, {name: name for name in here})
    assert len(cells) == len(here) * len(NAMINGS) > 0
    assert [cell for cell in cells if cell[0] != cell[1]] == []
