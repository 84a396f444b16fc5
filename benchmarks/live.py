"""Live application: its cost relative to a layer's own forward, and to ComfyUI's and LyCORIS' bypass.

A script as well: ``live.py OUT.json`` inside ComfyUI's interpreter times ComfyUI's ``h()`` and ours in one run.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.measure import median_times, peak_extra  # noqa: E402
from lokr_core import Adapter, Factor, LiveHandle, LoKrWeights, attach, factorization
from lokr_core.live import LiveHook, hook_of

__all__ = ["run"]

RANK, FACTOR = 16, 8
FORMS = {"whole": None, f"low-rank r {RANK}": RANK}
_MMAP_THRESHOLD, _libc = -3, ctypes.CDLL(None)  # glibc's mallopt
KINDS = ("attentions", "resnets", "downsamplers", "upsamplers")  # the modules that LyCORIS' preset "full" trains
LAYERS = {
    "Linear 3072→3072, 1024 tokens": lambda: (nn.Linear(3072, 3072), torch.randn(1, 1024, 3072)),
    "Linear 3072→12288, 512 tokens": lambda: (nn.Linear(3072, 12288), torch.randn(1, 512, 3072)),
    "Conv 3×3 320→320, 2 × 64×64": lambda: (nn.Conv2d(320, 320, 3, padding=1), torch.randn(2, 320, 64, 64)),
    "Conv 3×3 320→320, 2 × 32×32": lambda: (nn.Conv2d(320, 320, 3, padding=1), torch.randn(2, 320, 32, 32)),
    "Conv 3×3 1280→1280, 2 × 16×16": lambda: (nn.Conv2d(1280, 1280, 3, padding=1), torch.randn(2, 1280, 16, 16)),
    "Conv 3×3 1280→1280, 2 × 8×8": lambda: (nn.Conv2d(1280, 1280, 3, padding=1), torch.randn(2, 1280, 8, 8)),
}


def run() -> dict[str, list[dict]]:
    return {"layers": [*layers("LyCORIS", lycoris_bypass), *comfyui_layers()], "unet": unet()}


def lokr(shape: tuple[int, ...], rank: int | None, factor: int = FACTOR) -> LoKrWeights:
    """A random update for a weight of ``shape``: w1 whole, w2 whole or of ``rank``."""
    out, columns, *kernel = shape
    (l, k), (m, n) = factorization(out, factor, "lycoris"), factorization(columns, factor, "lycoris")
    if rank is None:
        return LoKrWeights(Factor(torch.randn(l, m) * 0.1), Factor(torch.randn(k, n, *kernel) * 0.1))
    w2 = Factor(a=torch.randn(k, rank) * 0.1, b=torch.randn(rank, n, *kernel) * 0.1)
    return LoKrWeights(Factor(torch.randn(l, m) * 0.1), w2)


@torch.no_grad()
def layers(peer: str, bypass) -> list[dict]:
    """``bypass(layer, weights)`` gives the peer's (x, base output) -> output; None if it has none."""
    rows = [_layer(peer, bypass, *case) for case in itertools.product(LAYERS, FORMS)]
    # Last, because it slows down all allocations: freed memory must leave the process to be measured again.
    _libc.mallopt(_MMAP_THRESHOLD, 1 << 16)
    for row, case in zip(rows, itertools.product(LAYERS, FORMS), strict=True):
        if "error" not in row:
            row["peak MiB"] = _layer(peer, bypass, *case, peaks=True)
    return rows


def _layer(peer: str, bypass, name: str, form: str, peaks: bool = False) -> dict:
    torch.manual_seed(0)
    layer, x = LAYERS[name]()
    weights = lokr(tuple(layer.weight.shape), FORMS[form])
    theirs, base = bypass(layer, weights), layer(x)
    row = {"case": f"{name}, {form}", "peer": peer}
    try:
        expected = theirs(x, base)
    except Exception as error:
        return {**row, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    with attach(nn.Sequential(layer), Adapter({"0": weights})):
        hook = hook_of(layer)
        found = hook(layer, (x,), {}, base.clone())
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        del found, expected
        runs = {peer: lambda: theirs(x, base), "ours": lambda: hook(layer, (x,), {}, base)}
        if peaks:
            return {name: min(_peak(run) for _ in range(3)) / 2**20 for name, run in runs.items()}
        alone = {"the layer alone": lambda: layer(x), "w2's product alone": lambda: product(layer, x, weights.w2)}
        times = median_times({**alone, **runs})
    ms = {name: seconds * 1e3 for name, seconds in times.items()}
    return {**row, "ms": ms, "times faster": times[peer] / times["ours"]}


def product(layer: nn.Module, x: torch.Tensor, w2: Factor) -> torch.Tensor:
    """x's product with w2, or with its b: the work that no implementation can avoid."""
    matrix = w2.b if w2.whole is None else w2.whole
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x.view(-1, matrix.shape[1]), matrix)
    return nn.functional.conv2d(x.view(-1, matrix.shape[1], *x.shape[2:]), matrix, padding=layer.padding)


def _peak(run) -> int:
    _libc.malloc_trim(0)
    return peak_extra(run)


def lycoris_bypass(layer: nn.Module, weights: LoKrWeights):
    from lycoris.functional.lokr import bypass_forward_diff

    w1, w2 = weights.w1.whole, weights.w2
    arguments = {"padding": layer.padding} if isinstance(layer, nn.Conv2d) else {}
    gamma = 1.0 if w2.rank is None else float(w2.rank)
    tensors = (w1, None, None, w2.whole, w2.a, w2.b, None)
    return lambda x, base: base + bypass_forward_diff(x, base, *tensors, gamma=gamma, extra_args=arguments)


def comfyui_bypass(layer: nn.Module, weights: LoKrWeights):
    """ComfyUI's ``h()`` as its ``BypassForwardHook`` calls it."""
    from comfy.weight_adapter.bypass import BypassForwardHook
    from comfy.weight_adapter.lokr import LoKrAdapter

    w2 = weights.w2
    alpha = None if w2.rank is None else float(w2.rank)
    low = (None, None) if w2.rank is None else (w2.a, w2.b.flatten(1))  # as in a file
    adapter = LoKrAdapter(set(), (weights.w1.whole, w2.whole, alpha, None, None, *low, None, None))
    BypassForwardHook(layer, adapter)  # sets the adapter's kind of layer
    return lambda x, base: adapter.g(base + adapter.h(x, base))


def comfyui_layers() -> list[dict]:
    from tests.hosts import find_comfyui

    host = find_comfyui()
    if host is None:
        print("no ComfyUI here (COMFYUI_PATH, COMFYUI_PYTHON): its part is left out")
        return []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        environment = {**host.environment, "LOKR_THREADS": str(torch.get_num_threads())}
        subprocess.run([host.python, __file__, out], env=environment, check=True)
        return json.loads(out.read_text())


@torch.no_grad()
def unet() -> list[dict]:
    """SD1.5's UNet with random weights, LoKr on every Linear and convolution of ``KINDS``."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()
    kinds = (nn.Linear, nn.Conv2d)
    named = {n: m for n, m in model.named_modules() if isinstance(m, kinds) and any(kind in n for kind in KINDS)}
    before = digest(model)
    rows = []
    for form, factor, rank in (("low-rank r 16", 8, 16), ("whole", 8, None), ("whole, balanced", -1, None)):
        adapter = Adapter({name: lokr(tuple(m.weight.shape), rank, factor) for name, m in named.items()})
        start = time.perf_counter()
        handle = attach(model, adapter, 0.5)
        seconds = time.perf_counter() - start
        for size, repeats in ((32, 5), (64, 3)):
            x, text = torch.randn(2, 4, size, size), torch.randn(2, 77, 768)

            def forward(on: bool, x=x, text=text, handle=handle):
                handle.enabled = on
                return model(x, 10, text).sample

            times = median_times({"base": lambda f=forward: f(False), "ours": lambda f=forward: f(True)}, repeats)
            rows.append(
                {
                    "case": f"SD1.5 UNet fp32, 2 × {size}×{size}, {len(adapter)} modules, factor {factor}, {form}",
                    "ms": {name: value * 1e3 for name, value in times.items()},
                    "of the base": times["ours"] / times["base"],
                    "attach s": seconds,
                    "where the rest goes": where(handle, lambda f=forward: f(True), times["base"]),
                }
            )
        handle.remove()
    assert digest(model) == before, "the weights are not what they were"
    return rows


def where(handle: LiveHandle, forward, base: float) -> dict[str, float]:
    """Kind of layer -> the time of its adapters as a share of the base's."""
    seconds: dict[str, float] = defaultdict(float)
    plain = LiveHook.__call__

    def timed(self, module, *arguments):
        start = time.perf_counter()
        result = plain(self, module, *arguments)
        kernel = getattr(module, "kernel_size", None)
        kind = "Linear" if kernel is None else f"Conv {'×'.join(map(str, kernel))}"
        channels = module.weight.shape[0]
        seconds[f"{kind} to {channels}"] += time.perf_counter() - start
        return result

    LiveHook.__call__ = timed
    try:
        forward()
    finally:
        LiveHook.__call__ = plain
    return {name: value / base for name, value in sorted(seconds.items(), key=lambda item: -item[1])}


def digest(model: nn.Module) -> str:
    state = hashlib.sha256()
    for tensor in model.state_dict().values():
        state.update(tensor.contiguous().numpy().data)
    return state.hexdigest()


def lines(results: dict[str, list[dict]]) -> list[str]:
    """The results as a text table."""
    out = []
    for row in results["layers"]:
        if "error" in row:
            out.append(f"{row['case']}: {row['peer']} fails: {row['error']}")
            continue
        ms, peak = (", ".join(f"{name} {value:.2f}" for name, value in row[k].items()) for k in ("ms", "peak MiB"))
        out.append(f"{row['case']}\n    ms: {ms}: {row['times faster']:.2f}x faster\n    peak MiB: {peak}")
    for row in results["unet"]:
        out.append(
            f"{row['case']}\n    base {row['ms']['base']:.0f} ms, live {row['ms']['ours']:.0f} ms: "
            f"{row['of the base']:.3f}x; attached in {row['attach s']:.3f} s"
        )
        parts = [f"{name} {share:.1%}" for name, share in row["where the rest goes"].items() if share >= 0.001]
        out.append("    " + ", ".join(parts))
    return out


if __name__ == "__main__":  # inside ComfyUI's interpreter
    destination = Path(sys.argv[1])
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401

    torch.set_num_threads(int(os.environ["LOKR_THREADS"]))
    destination.write_text(json.dumps(layers("ComfyUI", comfyui_bypass)))
