"""A LoKr as the best LoRA of a rank: one layer side by side with ``torch.linalg.svd``, and a whole file of SD1.5's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from lokr_core import Adapter, save_adapter
from lokr_core.conversion import Keep, KronSvd
from lokr_core.tools import Conversion, convert_file

from .gpu_models import sd15
from .measure import median_times
from .updates import Form, update_of

__all__ = ["lines", "run"]

SIZE, RANK, TURNS = 3072, 64, 3
FACTORS = (8, 4)


@torch.no_grad()
def run() -> list[dict]:
    """Rows with seconds: of each factor, ours and torch's by turns; of the file, from reading to what is written."""
    torch.manual_seed(0)
    return [*(_layer(factor) for factor in FACTORS), _file()]


def lines(rows: Iterable[dict]) -> list[str]:
    """The rows for a person."""
    found = []
    for row in rows:
        seconds = ", ".join(f"{name} {value:.3f} s" for name, value in row["s"].items())
        faster = f" ({row['times faster']:.0f} times faster)" if "times faster" in row else ""
        found.append(f"{row['case']}: {seconds}{faster}")
    return found


def _layer(factor: int) -> dict:
    weights = update_of(torch.randn(SIZE, SIZE), Form(f"whole, factor {factor}", factor))
    delta = weights.delta()

    def ours() -> tuple[Tensor, Tensor]:
        return KronSvd.of(weights).truncated(RANK)

    def theirs() -> tuple[Tensor, Tensor]:
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        return u[:, :RANK] * s[:RANK].sqrt(), s[:RANK].sqrt()[:, None] * v[:RANK]

    errors = [float(torch.dist(up @ down, delta) / delta.norm()) for up, down in (ours(), theirs())]
    assert abs(errors[0] - errors[1]) <= 1e-5 * errors[1], errors
    seconds = median_times({"ours": ours, "torch.linalg.svd": theirs}, TURNS)
    case = f"LoKr {SIZE} × {SIZE}, whole, factor {factor}, as a LoRA of rank {RANK}"
    return {"case": case, "s": seconds, "times faster": seconds["torch.linalg.svd"] / seconds["ours"]}


def _file() -> dict:
    with torch.device("meta"):
        model = sd15()
    layers = {name: m.weight.shape for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    form = Form("whole, factor 8", 8)
    adapter = Adapter({name: update_of(torch.randn(shape), form) for name, shape in layers.items()})
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "lokr.safetensors"
        save_adapter(adapter, source, format="kohya")
        start = time.perf_counter()
        conversion = Conversion("lora", "kohya", Keep(rank=RANK))
        convert_file(source, Path(folder) / "lora.safetensors", conversion, lossy=True)
        seconds = time.perf_counter() - start
    return {"case": f"SD1.5 LoKr of {len(layers)} modules, factor 8, as LoRA of rank {RANK}", "s": {"ours": seconds}}
