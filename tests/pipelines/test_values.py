"""Every pipeline with a LoKr puts out what it does with the reference weights W + ΔW, live and fused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import lokr_core

pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")

from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.tiny import PIPELINES, build, difference, outputs  # noqa: E402

TOLERANCE = 1e-5
CHANGE = 1e-2
"""An adapter must show in the outputs by more than this, relatively."""

_kept: dict[str, object] = {}


@pytest.fixture
def pipe(name: str):
    """The pipeline of a row. It is kept for the next test, which has to find it as it was."""
    if name not in _kept:
        _kept.clear()
        _kept[name] = build(name)
    return _kept[name]


@pytest.mark.parametrize("naming", lokr_files.NAMINGS)
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_puts_out_what_the_reference_weights_do(name: str, naming: str, pipe, tmp_path: Path) -> None:
    base, weights = outputs(name, pipe), _weights(pipe)
    changes = lokr_files.write(name, naming, pipe, tmp_path / "a.safetensors")
    reference = copy.deepcopy(pipe)
    lokr_files.apply(reference, changes)
    expected = outputs(name, reference)
    assert all(difference({part: expected[part]}, {part: base[part]}) > CHANGE for part in changes)

    adapters = lokr_core.load_lokr_weights(pipe, tmp_path / "a.safetensors", adapter_name="a")
    assert adapters.reports["a"].complete, adapters.reports["a"].text()
    assert difference(outputs(name, pipe), expected) <= TOLERANCE, "live"
    adapters.fuse()
    assert difference(outputs(name, pipe), expected) <= TOLERANCE, "fused"
    adapters.unfuse()
    adapters.fuse()
    adapters.delete_adapters("a")
    assert all(torch.equal(weight, weights[key]) for key, weight in _weights(pipe).items())
    assert all(torch.equal(output, base[part]) for part, output in outputs(name, pipe).items())


def _weights(pipe) -> dict[str, torch.Tensor]:
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": p.clone() for name, part in parts.items() for key, p in part.state_dict().items()}
