"""104 of 104: thirteen architectures × eight ways to name their modules, each whole and in the right place."""

from __future__ import annotations

import pytest

from lokr_core import resolve
from lokr_core.names import aliases
from tests.matching.cells import FURTHER, NAMINGS, TABLE, adapter, comfyui_target, recorded


def places(matches) -> dict[str, set]:
    """module of the file -> {(weight, first row, rows)}"""
    found: dict[str, set] = {}
    for match in matches:
        for start, update in match.pieces:
            found.setdefault(match.module, set()).add((match.weight, start, update.shape[0]))
    return found


@pytest.mark.every_value
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("architecture", [*TABLE.values(), *FURTHER])
def test_every_module_is_found_at_its_own_place(architecture, naming):
    modules, weights = recorded(architecture)
    matches, report = resolve(adapter(modules, naming), comfyui_target(weights))
    assert report.complete, report.text()
    assert len(report.applied) == len(modules)
    found = places(matches)
    # No two modules share a row of a weight, and an update has the shape of what it goes to.
    rows = [(weight, row) for spots in found.values() for weight, start, n in spots for row in range(start, start + n)]
    assert len(rows) == len(set(rows))
    for match in matches:
        for start, update in match.pieces:
            out, *rest = weights[match.weight.removeprefix("diffusion_model.")]
            assert update.shape[1:] == tuple(rest)
            assert start + update.shape[0] <= out


@pytest.mark.parametrize(
    "architecture", [*TABLE.values(), *(pytest.param(name, marks=pytest.mark.exhaustive) for name in FURTHER)]
)
def test_all_namings_lead_to_the_same_places(architecture):
    modules, weights = recorded(architecture)
    target = comfyui_target(weights)
    known = {**{name.rpartition(".")[0]: None for name in weights}, **aliases(weights)}
    seen = []
    for naming, spell in NAMINGS.items():
        found = places(resolve(adapter(modules, naming), target)[0])
        seen.append({name: found[spell(name)] for name in modules if name in known})
    assert all(other == seen[0] for other in seen)


def test_the_table_has_104_cells():
    assert len(TABLE) * len(NAMINGS) == 104
