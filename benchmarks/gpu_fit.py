"""Each kind of layer of a model both ways beside what ``handle.plan()`` estimates, and the constants fitted to that."""

from __future__ import annotations

import copy
from collections import Counter
from math import isfinite, prod

import torch
from torch import Tensor, nn

from lokr_core import Adapter, attach
from lokr_core.kronecker import Rates
from lokr_core.live import FACTORED, THROUGH, estimate, forced, hook_of

from .devices import waiter
from .gpu_models import Case
from .measure import Run, paired_times
from .updates import Form, update_of

__all__ = ["constants", "layers_of", "sums"]

# Bytes of a ring of equal layers: more than a GPU's caches, so that each call reads its weight from memory; and its
# most layers, since the time of a small layer is that of its calls.
RING, MOST = 256 << 20, 16


@torch.no_grad()
def layers_of(
    case: Case, form: Form, model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device, seconds: float
) -> list[dict]:
    """A row for each kind of layer that ``form`` updates: microseconds of one call of it, both ways and estimated."""
    kinds, examples = _kinds(case, model, inputs)
    rows = []
    for key, count in kinds.items():
        layer, x = examples[key]
        row = {"case": case.name, "form": form.name, "layer": _name(layer, x), "count": count}
        rows.append({**row, **_layer(layer, torch.randn_like(x), form, device, seconds / len(kinds))})
    return rows


def _kinds(
    case: Case, model: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Counter, dict[tuple, tuple[nn.Module, Tensor]]]:
    """(how many layers of each kind ``model`` runs, one of each with its input)"""
    counts: Counter = Counter()
    examples: dict[tuple, tuple[nn.Module, Tensor]] = {}

    def note(module: nn.Module, args: tuple) -> None:
        key = (repr(module), args[0].shape)
        counts[key] += 1
        examples.setdefault(key, (module, torch.empty_like(args[0])))

    handles = [
        module.register_forward_pre_hook(note)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and (not case.kinds or any(kind in name for kind in case.kinds))
    ]
    try:
        case.call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counts, examples


def _name(layer: nn.Module, x: Tensor) -> str:
    out, columns, *kernel = layer.weight.shape
    sizes = "×".join(map(str, x.shape if kernel else (prod(x.shape[:-1]),)))
    kind = f"Conv {'×'.join(map(str, kernel))}" if kernel else "Linear"
    stride = f" stride {layer.stride[0]}" if kernel and layer.stride[0] > 1 else ""
    return f"{kind} {columns}→{out}{stride}, {sizes}"


def _layer(layer: nn.Module, x: Tensor, form: Form, device: torch.device, seconds: float) -> dict:
    size = layer.weight.numel() * layer.weight.element_size()
    count = 1 if x.is_cpu else max(1, min(MOST, RING // size))
    ring, plain = (nn.ModuleList(copy.deepcopy(layer) for _ in range(count)) for _ in range(2))
    adapter = Adapter({str(i): update_of(each.weight, form) for i, each in enumerate(ring)})

    def around(layers: nn.ModuleList) -> None:
        for each in layers:
            each(x)

    with attach(ring, adapter, 0.5) as handle:
        around(ring)
        plan, parts = handle.plan()[0], hook_of(ring[0]).parts
        runs = {
            "base": Run(lambda: around(plain)),
            "factored": Run(lambda: around(ring), lambda: forced(FACTORED)),
            "through": Run(lambda: around(ring), lambda: forced(THROUGH)),
        }
        times = paired_times(runs, seconds, wait=waiter(device))
        units = [Rates(*(float(i == j) for j in range(len(Rates._fields)))) for i in range(len(Rates._fields))]
        work = [estimate(parts, ring[0], x, unit) for unit in units]
    us = {name: timing.seconds / count * 1e6 for name, timing in times.items()}
    added = {name: us[name] - us["base"] for name in ("factored", "through")}
    estimated = {"factored": plan.factored * 1e6, "through": plan.through * 1e6}
    return {
        "base us": us["base"],
        "added us": added,
        "estimated us": {name: value if isfinite(value) else None for name, value in estimated.items()},
        "planned": plan.way,
        "better": THROUGH if added["through"] < added["factored"] else FACTORED,
        # What each constant of ``Rates`` is multiplied with.
        "work": {name: [getattr(w, name) if isfinite(getattr(w, name)) else None for w in work] for name in added},
    }


def constants(rows: list[dict]) -> list[dict]:
    """[{constant: its fitted value}]: none below 0, errors as shares of the base. Returns [] if nothing was measured.

    >>> work = {"factored": [2.0, 0, 0, 1, 0, 0], "through": [0.0, 0, 3, 0, 0, 1]}
    >>> rows = [{"base us": 1.0, "added us": {"factored": 5.0, "through": 7.0}, "work": work}]
    >>> [found] = constants(rows)
    >>> 2 * found["multiplication"] + found["linear"], 3 * found["weight_byte"] + found["through"]
    (5e-06, 7e-06)
    """
    both = [(row, name) for row in rows for name in ("factored", "through") if None not in row["work"][name]]
    if not both:
        return []
    weight = torch.tensor([1 / row["base us"] for row, _ in both], dtype=torch.float64)
    work = torch.tensor([row["work"][name] for row, name in both], dtype=torch.float64) * weight[:, None]
    added = torch.tensor([row["added us"][name] * 1e-6 for row, name in both], dtype=torch.float64) * weight
    size = work.norm(dim=0)
    kept = [i for i in range(work.shape[1]) if size[i] > 0]
    found = torch.zeros(work.shape[1], dtype=torch.float64)
    while kept:
        values = torch.linalg.lstsq(work[:, kept] / size[kept], added, driver="gelsd").solution / size[kept]
        if float(values.min()) >= 0:
            found[kept] = values
            break
        del kept[int((values * size[kept]).argmin())]
    return [dict(zip(Rates._fields, found.tolist(), strict=True))]


def sums(rows: list[dict]) -> list[dict]:
    """All layers of each model together, microseconds: each way, as planned, by the fitted constants, and at best."""
    fitted = list(constants(rows)[0].values()) if rows else []
    found: dict[tuple[str, str], dict] = {}
    for row in rows:
        key = row["case"], row["form"]
        total = found.setdefault(key, {"case": key[0], "form": key[1], "us": Counter()})["us"]
        added, names = row["added us"], {FACTORED: "factored", THROUGH: "through"}
        would = {
            name: sum(a * b for a, b in zip(each, fitted, strict=True))
            for name, each in row["work"].items()
            if None not in each
        }
        chosen = {"as planned": names[row["planned"]], "by the fitted constants": min(would, key=would.get)}
        chosen |= {"factored": "factored", "through": "through", "at best": names[row["better"]]}
        for name, way in chosen.items():
            total[name] += row["count"] * (row["base us"] + added[way])
        total["base"] += row["count"] * row["base us"]
    for row in found.values():
        row["us"] = dict(row["us"])
        row["of the base"] = {name: value / row["us"]["base"] for name, value in row["us"].items()}
    return list(found.values())
