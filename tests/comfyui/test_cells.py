"""The table of FORMATS in a real ComfyUI: its own classes' weights, found by the bridge under every naming."""

from __future__ import annotations

import json

from tests.resolve.cells import NAMINGS, TABLE


def test_104_of_104_cells(comfyui, tmp_path):
    comfyui.run(tmp_path, {"do": "cells", "architectures": list(TABLE.values()), "out": str(tmp_path / "table.json")})
    table = json.loads((tmp_path / "table.json").read_text())
    print("\n| architecture |" + "".join(f" {naming} |" for naming in NAMINGS))
    for title, name in TABLE.items():
        print(f"| {title} |" + "".join(f" {found}/{total} |" for found, total in table[name].values()))
    cells = [cell for row in table.values() for cell in row.values()]
    assert len(cells) == 104
    assert [found == total for found, total in cells] == [True] * 104
