"""Live application: whole layers and SD1.5's UNet, each way and as planned, against the base and other bypasses.

``LOKR_MINUTES`` (6) is about what the part takes on two cores. More of them give more turns, and in the UNet both ways
of every form. A script as well: ``live.py OUT.json PEER SECONDS`` times a peer's bypass, and inside ComfyUI's
interpreter ComfyUI's.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.measure import Run, paired_times, peak_extra  # noqa: E402
from benchmarks.updates import FORMS, RANK16, WHOLE, Form, twin, update_of  # noqa: E402
from lokr_core import Adapter, LiveHandle, LoKrWeights, attach  # noqa: E402
from lokr_core.live import FACTORED, THROUGH, forced  # noqa: E402

__all__ = ["lines", "run"]

MINUTES = float(os.environ.get("LOKR_MINUTES", "6"))
LAYERS, PEERS = 0.2, 0.05  # of the time: all layers, one peer; the UNet has the rest
MOST = 50  # turns of a layer
NOISE = 0.005  # of the base: an update that costs less counts as this, when costs are compared
_MMAP_THRESHOLD, _libc = -3, ctypes.CDLL(None) if sys.platform == "linux" else None  # glibc's mallopt

Bypass = Callable[[Tensor, Tensor], Tensor]


class Layer(NamedTuple):
    """A layer and its input: positions, or sides of 2 images; kernel: () for a Linear"""

    columns: int
    out: int
    positions: int
    kernel: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        if not self.kernel:
            return f"Linear {self.columns}→{self.out}, {self.positions:,} positions"
        return (
            f"Conv {'×'.join(map(str, self.kernel))} {self.columns}→{self.out}, 2 × {self.positions}×{self.positions}"
        )

    @property
    def work(self) -> int:
        """Multiplications."""
        positions = 2 * self.positions**2 if self.kernel else self.positions
        return self.columns * self.out * prod(self.kernel) * positions

    def make(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        if not self.kernel:
            return nn.Linear(self.columns, self.out), torch.randn(1, self.positions, self.columns)
        layer = nn.Conv2d(self.columns, self.out, self.kernel, padding=1)
        return layer, torch.randn(2, self.columns, self.positions, self.positions)


CONVOLUTIONS = tuple(Layer(size, size, side, (3, 3)) for size, side in ((320, 64), (640, 32), (1280, 16), (1280, 8)))
SIZES = ((3072, 3072), (3072, 9216), (3072, 12288), (12288, 3072), (320, 320))
LINEARS = tuple(Layer(*size, positions) for size in SIZES for positions in (64, 256, 1024, 4096))
COMPARED = (*(linear for linear in LINEARS if linear.positions == 1024), *CONVOLUTIONS)
FURTHER = (Layer(3072, 3072, 1024), Layer(320, 320, 1024), Layer(640, 640, 32, (3, 3)))
CASES = (
    *((layer, WHOLE) for layer in (*LINEARS, *CONVOLUTIONS)),
    *((layer, form) for layer in FURTHER for form in FORMS if form != WHOLE),
)


def run() -> dict[str, list[dict]]:
    from benchmarks.live_unet import unet  # needs diffusers, which ComfyUI's interpreter has not

    end = time.perf_counter() + 60 * MINUTES
    found = {"layers": layers(LAYERS * 60 * MINUTES)}
    found["peers"] = [*_elsewhere("LyCORIS", sys.executable, {**os.environ}), *_comfyui()]
    return {**found, "unet": unet(end - time.perf_counter())}


@torch.no_grad()
def layers(seconds: float, cases: Sequence[tuple[Layer, Form]] = CASES) -> list[dict]:
    """A row for each layer: the whole layer's time without an update, and with it each way and as planned."""
    rows, total = [], sum(case.work for case, _ in cases)
    for case, form in cases:
        layer, x = case.make()
        ours = nn.Sequential(twin(layer))
        with attach(ours, Adapter({"0": update_of(layer.weight, form)}), 0.5) as handle:
            ours(x)
            way = handle.plan()[0].way
            runs = {"base": Run(lambda: layer(x)), **ways(lambda: ours(x))}  # noqa: B023
            share = 0.5 / len(cases) + 0.5 * case.work / total
            times = paired_times(runs, seconds * share, most=MOST)
        rows.append({"case": f"{case.name}, {form.name}", "way": way, **figures(times)})
    return rows


def ways(call: Callable[[], object]) -> dict[str, Run]:
    """``call`` each way and as planned."""
    both = {"factored": FACTORED, "through": THROUGH}
    return {**{name: Run(call, lambda way=way: forced(way)) for name, way in both.items()}, "as planned": Run(call)}


def figures(times: dict) -> dict[str, dict]:
    return {
        "ms": {name: timing.seconds * 1e3 for name, timing in times.items()},
        "of the base": {name: timing.of_base for name, timing in times.items()},
        "turns": min(timing.turns for timing in times.values()),
    }


@torch.no_grad()
def peers(
    peer: str,
    bypass: Callable[[nn.Module, LoKrWeights], Bypass],
    seconds: float,
    cases: Sequence[Layer] = COMPARED,
    forms: Sequence[Form] = (WHOLE, RANK16),
) -> list[dict]:
    """Rows of whole layers with a peer's bypass and with ours. ``bypass`` gives its (x, base output) -> output."""
    every = list(itertools.product(cases, forms))
    rows = [_against(peer, bypass, *each, seconds / len(every)) for each in every]
    # Last, because it slows down all allocations: freed memory must leave the process to be measured again.
    _libc.mallopt(_MMAP_THRESHOLD, 1 << 16)
    for row, each in zip(rows, every, strict=True):
        if "error" not in row:
            row["peak MiB"] = _against(peer, bypass, *each)
    return rows


def _against(
    peer: str, bypass: Callable[[nn.Module, LoKrWeights], Bypass], case: Layer, form: Form, seconds: float | None = None
) -> dict:
    """The times of one layer; without ``seconds``, its peaks."""
    layer, x = case.make()
    weights = update_of(layer.weight, form)
    theirs, ours = bypass(layer, weights), nn.Sequential(twin(layer))
    row = {"case": f"{case.name}, {form.name}", "peer": peer}
    try:
        expected = theirs(x, layer(x))
    except Exception as error:
        return {**row, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    with attach(ours, Adapter({"0": weights})) as handle:
        assert torch.allclose(ours(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        del expected
        runs = {"base": lambda: layer(x), peer: lambda: theirs(x, layer(x)), "ours": lambda: ours(x)}
        if seconds is None:
            return {name: min(_peak(run, handle) for _ in range(2)) / 2**20 for name, run in runs.items()}
        times = paired_times({name: Run(call) for name, call in runs.items()}, seconds, most=MOST)
    costs = {name: times[name].of_base - 1 for name in (peer, "ours")}
    faster = max(costs[peer], NOISE) / max(costs["ours"], NOISE)
    return {**row, **figures(times), "cost": costs, "times faster": faster}


def _peak(call: Callable[[], object], handle: LiveHandle) -> int:
    handle.enabled = False  # frees the scratch memory, which counts
    handle.enabled = True
    _libc.malloc_trim(0)
    return peak_extra(call)


def lycoris_bypass(layer: nn.Module, weights: LoKrWeights) -> Bypass:
    from lycoris.functional.lokr import bypass_forward_diff

    w1, w2 = weights.w1.whole, weights.w2
    arguments = {"padding": layer.padding} if isinstance(layer, nn.Conv2d) else {}
    gamma = 1.0 if w2.rank is None else float(w2.rank)
    tensors = (w1, None, None, w2.whole, w2.a, w2.b, None)
    return lambda x, base: base + bypass_forward_diff(x, base, *tensors, gamma=gamma, extra_args=arguments)


def comfyui_bypass(layer: nn.Module, weights: LoKrWeights) -> Bypass:
    """ComfyUI's ``h()`` as its ``BypassForwardHook`` calls it."""
    from comfy.weight_adapter.bypass import BypassForwardHook
    from comfy.weight_adapter.lokr import LoKrAdapter

    w2 = weights.w2
    alpha = None if w2.rank is None else float(w2.rank)
    low = (None, None) if w2.rank is None else (w2.a, w2.b.flatten(1))  # as in a file
    adapter = LoKrAdapter(set(), (weights.w1.whole, w2.whole, alpha, None, None, *low, None, None))
    BypassForwardHook(layer, adapter)  # sets the adapter's kind of layer
    return lambda x, base: adapter.g(base + adapter.h(x, base))


def _comfyui() -> list[dict]:
    from tests.hosts import find_comfyui

    host = find_comfyui()
    if host is None:
        print("no ComfyUI here (COMFYUI_PATH, COMFYUI_PYTHON): its part is left out")
        return []
    return _elsewhere("ComfyUI", host.python, host.environment)


def _elsewhere(peer: str, python: str | Path, environment: dict[str, str]) -> list[dict]:
    """The rows of ``peers`` from a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        environment = {**environment, "LOKR_THREADS": str(torch.get_num_threads())}
        command = [python, __file__, out, peer, str(PEERS * 60 * MINUTES)]
        subprocess.run(command, env=environment, check=True)
        return json.loads(out.read_text())


def lines(results: dict[str, list[dict]]) -> list[str]:
    """The results as a text table."""
    out = ["Whole layers and models: a step, of the base's"]
    for row in (*results["layers"], *results["unet"]):
        ratios = ", ".join(f"{name} {value:.3f}" for name, value in row["of the base"].items() if name != "base")
        way = row["way"] if "way" in row else f"{row['share through the weight']:.0%} of the layers through the weight"
        out.append(f"{row['case']}: base {row['ms']['base']:.1f} ms, {ratios}; {way}; {row['turns']} turns")
    out.append("What an update costs, of the base; peak MiB of the whole layer")
    for row in results["peers"]:
        if "error" in row:
            out.append(f"{row['case']}: {row['peer']} fails: {row['error']}")
            continue
        costs = ", ".join(f"{name} {value:.3f}" for name, value in row["cost"].items())
        peak = ", ".join(f"{name} {value:.1f}" for name, value in row["peak MiB"].items())
        out.append(f"{row['case']}: {costs}: {row['times faster']:.2f}x; peak MiB {peak}; {row['turns']} turns")
    return out


def _main(out: str, peer: str, seconds: str) -> None:
    torch.set_num_threads(int(os.environ["LOKR_THREADS"]))
    if peer == "ComfyUI":  # inside its interpreter
        sys.path.insert(0, os.environ["COMFYUI_PATH"])
        sys.argv = [sys.argv[0], "--cpu"]
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401
    bypass = comfyui_bypass if peer == "ComfyUI" else lycoris_bypass
    Path(out).write_text(json.dumps(peers(peer, bypass, float(seconds))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
