"""Merge, live and training on an accelerator: steps of whole models against the base's and PEFT's, in 8 minutes.

``python -m benchmarks --only gpu`` needs no host and downloads nothing. ``--device cpu --tiny`` is a dry run: small
models on the CPU, which shows that everything runs; its figures mean nothing and are not kept.
"""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lokr_core import Adapter, LoKrConfig, attach, get_lokr_model, merge_adapter
from lokr_core.live import FACTORED, THROUGH, forced

from .devices import accelerator, allocated, free, peak, waiter
from .gpu_fit import constants, layers_of, sums
from .gpu_models import CASES, Case
from .measure import Run, Timing, paired_times
from .updates import DORA_OUT, RANK16, WHOLE, Form, adapter_for, twin

__all__ = ["run"]

FORMS = (WHOLE, RANK16, DORA_OUT)
MINUTES = 7.5
# Parts of a row's time: what is left goes to making models and adapters.
MERGE, LIVE, TRAINING, LAYERS = 0.1, 0.3, 0.25, 0.25
STRENGTH = 0.5

Call = Callable[[], Tensor]


def run(device: str | None = None, tiny: bool = False, minutes: float = MINUTES) -> dict[str, list[dict]]:
    """Rows of whole models, of their layers, sums of those, and the constants fitted to them.

    device: such as "cuda:1"; None: the accelerator that is here. Returns {} if there is none.
    tiny: small models, each figure from one turn
    """
    found = torch.device(device) if device else accelerator()
    if found is None:
        print("no accelerator here (cuda, xpu or mps): its part is left out")
        return {}
    cases = [case for case in CASES if not case.needs_diffusers or importlib.util.find_spec("diffusers")]
    if len(cases) < len(CASES):
        print("no diffusers here: its UNets are left out")
    end, steps, layers = time.perf_counter() + 60 * minutes, [], []
    for index, case in enumerate(cases):
        now = time.perf_counter()
        case = case._replace(name=f"{case.name} (tiny)", model=case.tiny) if tiny else case
        for row, each in _case(case, found, now + (end - now) / (len(cases) - index), tiny):
            steps.append(row)
            layers += each
    return {"steps": steps, "layers": layers, "sums": sums(layers), "constants": constants(layers)}


def _case(case: Case, device: torch.device, end: float, tiny: bool) -> Iterator[tuple[dict, list[dict]]]:
    """The case's rows, one for each form of update, each with those of its layers."""
    if time.perf_counter() >= end:
        yield {"case": case.name, "form": "all", "errors": {"all": "no time left"}}, []
        return
    model, inputs = _made(case, device)
    for index, form in enumerate(FORMS):
        print(f"{case.name}, {form.name}", flush=True)
        seconds = 0.0 if tiny else (end - time.perf_counter()) / (len(FORMS) - index)
        yield _row(case, form, model, inputs, device, seconds)
    del model, inputs
    free(device)


def _made(case: Case, device: torch.device) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The case's frozen model and its inputs, in its dtype on the device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(case.dtype)
    try:
        with device:
            torch.manual_seed(0)
            model = case.model().eval().requires_grad_(False)
            return model, case.inputs(model)
    finally:
        torch.set_default_dtype(before)


def _row(
    case: Case, form: Form, model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device, seconds: float
) -> tuple[dict, list[dict]]:
    """The figures of a model with one form of update, and those of its layers."""
    adapter = adapter_for(model, form, case.kinds)
    row: dict = {"case": case.name, "form": form.name, "modules": len(adapter)}
    row |= {"ms": {}, "of the base": {}, "peak MiB": {}, "turns": {}}
    layers: list[dict] = []
    merged: list[Tensor] = []

    def call(module: nn.Module) -> Call:
        return lambda: case.call(module, inputs)

    def merge() -> None:
        merged.append(_merge(row, model, adapter, call(model), device, MERGE * seconds))

    def live() -> None:
        _live(row, call, model, adapter, form, device, LIVE * seconds, merged)

    def train() -> None:
        _train(row, case, form, model, list(adapter), inputs, device, TRAINING * seconds)

    def fit() -> None:
        layers.extend(layers_of(case, form, model, inputs, device, LAYERS * seconds))

    for part in (merge, live, train, fit):
        _try(row, part, device)
    return row, layers


def _try(row: dict, part: Callable[[], None], device: torch.device) -> None:
    """Run a part; if it fails, such as for want of memory, the others' figures are still worth having."""
    try:
        part()
    except (RuntimeError, NotImplementedError) as error:
        row.setdefault("errors", {})[part.__name__] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    free(device)


def _note(row: dict, times: dict[str, Timing], suffix: str = "") -> None:
    for name, timing in times.items():
        row[f"{suffix}ms"][name] = timing.seconds * 1e3
        row[f"{suffix}of the base"][name] = timing.of_base
        row["turns"][f"{suffix}{name}"] = timing.turns


def _mebibytes(held: int | None, extra: int | None) -> float | None:
    return None if extra is None else ((held or 0) + extra) / 2**20


def _held(device: torch.device, before: int | None) -> int | None:
    now = allocated(device)
    return None if now is None or before is None else now - before


@torch.no_grad()
def _merge(row: dict, model: nn.Module, adapter: Adapter, call: Call, device: torch.device, seconds: float) -> Tensor:
    """A step of the merged model, and a changed strength against a copy of the weights. Returns the output."""
    before, wait = allocated(device), waiter(device)
    with merge_adapter(model, adapter, STRENGTH) as handle:

        @contextmanager
        def without() -> Iterator[None]:
            handle.enabled = False
            yield
            handle.enabled = True

        output = call()
        held = _held(device, before)
        times = paired_times({"base": Run(call, without), "merged": Run(call)}, seconds / 2, wait=wait)
        _note(row, {"merged": times["merged"]})
        row["peak MiB"]["merged"] = _mebibytes(held, peak(device, call))

        weights = [model.get_submodule(place).weight for place in handle.places]
        copies = [torch.empty_like(weight) for weight in weights]
        strengths = itertools.cycle((0.7, STRENGTH))

        def change() -> None:
            handle.strength = next(strengths)

        def copied() -> None:
            for scratch, weight in zip(copies, weights, strict=True):
                scratch.copy_(weight)

        times = paired_times({"copy": Run(copied), "merge": Run(change)}, seconds / 2, wait=wait)
        moved = 2 * sum(weight.numel() * weight.element_size() for weight in weights) / 1e9  # read and written
        row["changed strength ms"] = {name: timing.seconds * 1e3 for name, timing in times.items()}
        row["changed strength GB/s"] = {name: moved / timing.seconds for name, timing in times.items()}
        row["changed strength, of a copy"] = times["merge"].of_base
    return output


@torch.no_grad()
def _live(
    row: dict,
    call: Callable[[nn.Module], Call],
    model: nn.Module,
    adapter: Adapter,
    form: Form,
    device: torch.device,
    seconds: float,
    merged: list[Tensor],
) -> None:
    """A step of the base, live each way, and PEFT's."""
    before, ours = allocated(device), twin(model)
    with attach(ours, adapter, STRENGTH) as handle:
        output = call(ours)()
        plan = handle.plan()
        row["share through the weight"] = sum(layer.way == THROUGH for layer in plan) / max(1, len(plan))
        if merged:
            row["difference from merged"] = float((output - merged[0]).float().norm() / merged[0].float().norm())
        held = {"base": 0, "live, as planned": _held(device, before)}
        runs = {
            "base": Run(call(model)),
            "live, factored": Run(call(ours), lambda: forced(FACTORED)),
            "live, through the weight": Run(call(ours), lambda: forced(THROUGH)),
            "live, as planned": Run(call(ours)),
        }
        if form.dora is None and importlib.util.find_spec("peft"):
            before = allocated(device)
            theirs = _peft(twin(model), form, list(adapter), dtype=output.dtype)
            held["PEFT"] = _held(device, before)
            runs["PEFT"] = Run(call(theirs))
        del output
        _note(row, paired_times(runs, seconds, wait=waiter(device)))
        for name, each in runs.items():
            with each.within():
                row["peak MiB"][name] = _mebibytes(held.get(name, held["live, as planned"]), peak(device, each.call))


def _fields(form: Form, names: list[str]) -> dict:
    rank = form.rank or 1 << 20  # so large that w2 is whole
    return dict(r=rank, alpha=rank, decompose_factor=form.factor, target_modules=names, init_weights=False)


def _peft(model: nn.Module, form: Form, names: list[str], dtype: torch.dtype) -> nn.Module:
    """``model`` with PEFT's adapters, their parameters in ``dtype``."""
    from peft import LoKrConfig as Config
    from peft import LoKrModel as Model

    made = Model(model, Config(**_fields(form, names)), "default")
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return made


def _train(
    row: dict,
    case: Case,
    form: Form,
    model: nn.Module,
    names: list[str],
    inputs: tuple[Tensor, ...],
    device: torch.device,
    seconds: float,
) -> None:
    """Forward, backward and AdamW under autocast, the adapters in fp32 as ``get_lokr_model`` and PEFT make them."""
    models = {"base": model, "ours": get_lokr_model(twin(model), LoKrConfig(**_fields(form, names), dora=form.dora))}
    if form.dora is None and importlib.util.find_spec("peft"):
        models["PEFT"] = _peft(twin(model), form, names, torch.float32)
    runs = {name: Run(_training_step(case, each, inputs, device)) for name, each in models.items()}
    row.update({"training ms": {}, "training of the base": {}})
    _note(row, paired_times(runs, seconds, wait=waiter(device)), "training ")
    row["training peak MiB"] = {name: _mebibytes(0, peak(device, each.call)) for name, each in runs.items()}


def _training_step(
    case: Case, model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device
) -> Callable[[], None]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4) if parameters else None
    first, *others = inputs

    def step() -> None:
        # The input needs a gradient, or autograd would skip the backward pass of the layers before the first adapter.
        with torch.autocast(device.type, case.dtype):
            loss = case.call(model, (first.detach().requires_grad_(), *others)).float().square().mean()
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step
