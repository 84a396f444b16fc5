"""Live on SD1.5's UNet with random weights in fp32: a step of each form of update, as planned and each way."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from lokr_core import LiveHandle, attach
from lokr_core.live import THROUGH

from .gpu_models import sd15
from .live import ways
from .measure import Run, Timing, paired_times
from .updates import FORMS, KINDS, Form, adapter_for, twin

__all__ = ["SIZES", "unet"]

SIZES = ((32, 1), (32, 2), (64, 1), (64, 2))  # sides of the latents, and of the batch
PLANNED = 0.7  # of a size's time: turns of all forms as planned; then each form's both ways, as far as time goes
MOST = 7  # turns

Call = Callable[[nn.Module], object]
Attached = dict[Form, tuple[nn.Module, LiveHandle]]


@torch.no_grad()
def unet(seconds: float, sizes: Sequence[tuple[int, int]] = SIZES, make: Callable[[], nn.Module] = sd15) -> list[dict]:
    """A row for each size, batch and form. Every form is attached to modules of its own on the same weights.

    A row has ``factored`` and ``through`` if ``seconds`` are enough for a turn of them.
    """
    torch.manual_seed(0)
    model, end = make().eval(), time.perf_counter() + seconds
    before = digest(model)
    attached: Attached = {}
    for form in FORMS:
        ours = twin(model)
        attached[form] = ours, attach(ours, adapter_for(model, form, KINDS), 0.5)
        _call(model, 8, 1)(ours)  # prepares the factors, and DoRA's ratios
    rows = []
    share = [(side * side * batch) ** 0.5 for side, batch in sizes]
    for index, (side, batch) in enumerate(sizes):
        left = (end - time.perf_counter()) * share[index] / sum(share[index:])
        rows += _rows(model, attached, side, batch, left)
    for _, handle in attached.values():
        handle.remove()
    assert digest(model) == before, "the weights are not what they were"
    return rows


def _call(model: nn.Module, side: int, batch: int) -> Call:
    x, text = torch.randn(batch, 4, side, side), torch.randn(batch, 77, model.config.cross_attention_dim)
    return lambda module: module(x, 10, text).sample


def _rows(model: nn.Module, attached: Attached, side: int, batch: int, seconds: float) -> list[dict]:
    call, end = _call(model, side, batch), time.perf_counter() + seconds
    call(model)
    runs = {"base": Run(lambda: call(model))}
    runs |= {form.name: Run(lambda ours=ours: call(ours)) for form, (ours, _) in attached.items()}
    times = paired_times(runs, PLANNED * seconds, most=MOST, warm=False)
    rows = []
    for index, (form, (ours, handle)) in enumerate(attached.items()):
        plan = handle.plan()
        name = f"SD1.5 UNet fp32, {batch} × {side}×{side}, {len(plan)} layers, {form.name}"
        row = {"case": name, "share through the weight": sum(layer.way == THROUGH for layer in plan) / len(plan)}
        row |= {"ms": {}, "of the base": {}, "turns": times[form.name].turns}
        _note(row, {"base": times["base"], "as planned": times[form.name]})
        left = (end - time.perf_counter()) / (len(attached) - index)
        if left > 3 * times["base"].seconds:
            both = {name: run for name, run in ways(lambda ours=ours: call(ours)).items() if name != "as planned"}
            found = paired_times({"base": runs["base"], **both}, left, most=MOST, warm=False)
            _note(row, {name: found[name] for name in both})
        rows.append(row)
    return rows


def _note(row: dict, times: dict[str, Timing]) -> None:
    for name, timing in times.items():
        row["ms"][name], row["of the base"][name] = timing.seconds * 1e3, timing.of_base


def digest(model: nn.Module) -> str:
    state = hashlib.sha256()
    for tensor in model.state_dict().values():
        state.update(tensor.contiguous().numpy().data)
    return state.hexdigest()
