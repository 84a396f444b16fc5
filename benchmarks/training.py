"""Training: the cost of a step and a forward with LoKr adapters, against PEFT's, LyCORIS' and the bare model's."""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import peak_allocated
from lokr_core import LoKrConfig, LoKrModel, speed_up

__all__ = ["lines", "run"]

RANK, ALPHA = 8, 16
SEED_TARGETS = (
    *("proj_in", "proj_out", "to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
)
VIT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
FLUX_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("net.0.proj", "net.2", "proj_mlp", "proj_out"),
)
BASE, SPED_UP = "base", ", sped up"
FORWARDS, WARM = 3, 2  # per turn; steps before one is timed: the first has no memory to reuse


@dataclass
class Case:
    """A model, the names of its modules to adapt, its input, and the number of measurements."""

    name: str
    model: nn.Module
    targets: tuple[str, ...]
    forward: Callable[[nn.Module, Tensor], Tensor]
    x: Tensor
    repeats: int
    steps: int = 3  # timed per turn
    warm: int = WARM
    rank_dropout: float = 0.0


def mlp() -> Case:
    layers = [layer for _ in range(4) for layer in (nn.Linear(3072, 3072), nn.GELU())]
    tokens = torch.randn(512, 3072)
    return Case("MLP 4 × 3072, 512 tokens", nn.Sequential(*layers), ("0", "2", "4", "6"), lambda m, x: m(x), tokens, 7)


def vit(batch: int, rank_dropout: float = 0.0) -> Case:
    from transformers import ViTConfig, ViTModel

    images = torch.randn(batch, 3, 224, 224)
    model = ViTModel(ViTConfig(), add_pooling_layer=False)
    name = f"ViT-B, {batch} × 224×224" + (f", rank dropout {rank_dropout}" if rank_dropout else "")
    forward = lambda m, x: m(x).last_hidden_state  # noqa: E731
    return Case(name, model, VIT_TARGETS, forward, images, 5, rank_dropout=rank_dropout)


def unet(batch: int) -> Case:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    text = torch.randn(batch, 77, 768)
    latents = torch.randn(batch, 4, 32, 32)
    name = f"SD1.5 UNet, {batch} × 32×32"
    return Case(name, model, SEED_TARGETS, lambda m, x: m(x, 10, text).sample, latents, 3, 1)


def flux(positions: int) -> Case:
    """A transformer of Flux.1's widths, with 2 of its 19 double blocks and 4 of its 38 single ones."""
    from diffusers import FluxTransformer2DModel

    text = 64
    model = FluxTransformer2DModel(num_layers=2, num_single_layers=4, guidance_embeds=False)
    others = dict(
        encoder_hidden_states=torch.randn(1, text, 4096),
        pooled_projections=torch.randn(1, 768),
        timestep=torch.tensor([0.5]),
        img_ids=torch.zeros(positions - text, 3),
        txt_ids=torch.zeros(text, 3),
    )
    latents = torch.randn(1, positions - text, 64)
    forward = lambda m, x: m(x, **others).sample  # noqa: E731
    name = f"Flux widths, 2 + 4 blocks, {positions} positions"
    return Case(name, model, FLUX_TARGETS, forward, latents, 3, 1, 1)


CASES = {
    "mlp": mlp,
    "vit1": lambda: vit(1),
    "vit1-dropout": lambda: vit(1, 0.1),
    "vit4": lambda: vit(4),
    "unet1": lambda: unet(1),
    "unet2": lambda: unet(2),
    "flux256": lambda: flux(256),
    "flux1024": lambda: flux(1024),
    "flux4096": lambda: flux(4096),
}


# Each implementation adds its adapters to the model and removes them: one base, however large, is enough.


@contextmanager
def base(case: Case) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    yield case.model, []


def _fields(case: Case) -> dict:
    targets = list(case.targets)
    return dict(r=RANK, alpha=ALPHA, target_modules=targets, init_weights=False, rank_dropout=case.rank_dropout)


@contextmanager
def ours(case: Case) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    model = LoKrModel(case.model, LoKrConfig(**_fields(case)))
    yield model, [p for p in model.parameters() if p.requires_grad]
    model.unload()


@contextmanager
def peft(case: Case) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    from peft import LoKrConfig as Config
    from peft import LoKrModel as Model

    model = Model(case.model, Config(**_fields(case)), "default")
    yield model, [p for p in model.parameters() if p.requires_grad]
    model.unload()


def lycoris(bypass: bool):
    @contextmanager
    def way(case: Case) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
        from lycoris.modules.lokr import LokrModule

        found = [m for n, m in case.model.named_modules() if any(n == t or n.endswith("." + t) for t in case.targets)]
        how = dict(lora_dim=RANK, alpha=ALPHA, factor=-1, bypass_mode=bypass, rank_dropout=case.rank_dropout)
        modules = [LokrModule("m", m, **how) for m in found]
        for module in modules:
            module.train()
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.02)
            module.apply_to()
        yield case.model, [p for module in modules for p in module.parameters()]
        for module in modules:
            module.restore()

    return way


def sped(way):
    """The same layers, with their forwards computed by ``speed_up``."""

    @contextmanager
    def sped_way(case: Case) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
        with way(case) as (model, parameters), speed_up(model):
            yield model, parameters

    return sped_way


_OTHERS = {"PEFT": peft, "LyCORIS": lycoris(False), "LyCORIS bypass": lycoris(True)}
WAYS = {BASE: base, **{name: way for n, w in _OTHERS.items() for name, way in ((n, w), (n + SPED_UP, sped(w)))}}
WAYS["ours"] = ours


def step_of(case: Case, model: nn.Module, parameters: list[nn.Parameter]) -> Callable[[], None]:
    """Forward, backward and AdamW; without adapters, forward and backward to the input."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True) if parameters else None

    def step() -> None:
        # x needs a gradient, or autograd would skip the backward pass of the layers before the first adapter.
        loss = case.forward(model, case.x.detach().requires_grad_()).square().mean()
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step


def kept_bytes(case: Case, model: nn.Module) -> int:
    """Bytes that the forward saves for the backward pass, without parameters, each storage once."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # keeps them alive, so that no two share an address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        case.forward(model, case.x.detach().requires_grad_())
    return sum(storages.values())


def measure(case: Case, ways: dict) -> dict:
    """Medians over turns in which every implementation is added, warmed up, timed and removed."""
    case.model.requires_grad_(False)
    seconds: dict[str, dict[str, list[float]]] = {"step": defaultdict(list), "forward": defaultdict(list)}
    kept, peak, flops, modules = {}, {}, {}, 0
    end = time.monotonic() + 60 * float(os.environ.get("LOKR_MINUTES", "inf"))
    for turn in range(case.repeats):
        start = time.monotonic()
        for name, way in ways.items():
            with way(case) as (model, parameters):
                modules = len(getattr(model, "targeted_module_names", ())) or modules
                step = step_of(case, model, parameters)
                for _ in range(case.warm):
                    step()
                seconds["step"][name] += [_timed(step) for _ in range(case.steps)]
                with torch.no_grad():
                    forward = lambda m=model: case.forward(m, case.x)  # noqa: E731
                    forward()
                    seconds["forward"][name] += [_timed(forward) for _ in range(FORWARDS)]
                if turn == 0:
                    kept[name] = kept_bytes(case, model) / 2**20
                    gc.collect()
                    peak[name] = peak_allocated(step) / 2**20
                    with FlopCounterMode(display=False) as counter:
                        step()
                    flops[name] = counter.get_total_flops() / 1e9
                del model, parameters, step
            gc.collect()
        if 2 * time.monotonic() - start > end:
            break
    medians = {what: {name: statistics.median(v) for name, v in each.items()} for what, each in seconds.items()}
    step, forward = medians["step"], medians["forward"]
    row = {"case": f"{case.name}, r {RANK}, {modules} modules", "kept MiB": kept, "peak MiB": peak, "step GFLOP": flops}
    row["ms"] = {name: value * 1e3 for name, value in step.items()}
    row["forward ms"] = {name: value * 1e3 for name, value in forward.items()}
    row["step, of the base"] = {name: value / step[BASE] for name, value in step.items()}
    beside = [name for name in _OTHERS if {name, "ours"} <= step.keys()]
    row["ours times faster"] = {name: step[name] / step["ours"] for name in beside}
    both = [name for name in _OTHERS if {name, name + SPED_UP} <= step.keys()]
    row["sped up, times faster"] = {n: step[n] / step[n + SPED_UP] for n in both}
    row["sped up, kept of its own"] = {n: kept[n + SPED_UP] / kept[n] for n in both}
    own = {name: value - forward[BASE] for name, value in forward.items() if name != BASE}
    row["adapters' own forward ms"] = {name: value * 1e3 for name, value in own.items()}
    row["ours' own forward, of theirs"] = {n: own["ours"] / own[n] for n in beside}
    if "PEFT" in beside:
        row["ours' kept, of PEFT's"] = kept["ours"] / kept["PEFT"]
    return row


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def run() -> list[dict]:
    """One row per case; the environment's ``LOKR_CASES`` (such as "mlp,vit1") selects cases, ``LOKR_WAYS`` (such as
    "PEFT|PEFT, sped up") implementations beside the base; a case has one turn, and more that are expected to end within
    ``LOKR_MINUTES``. PEFT would take more memory than most have for Flux and 4,096 positions. Each has a process of its
    own: what allocators keep of one would leave too little memory for the next.
    """
    wanted = os.environ.get("LOKR_CASES", ",".join(n for n in CASES if n != "flux4096")).split(",")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(_row, wanted, chunksize=1)


def _row(name: str) -> dict:
    torch.manual_seed(0)
    ways = {BASE, *os.environ.get("LOKR_WAYS", "|".join(WAYS)).split("|")}
    return measure(CASES[name](), {name: way for name, way in WAYS.items() if name in ways})


def lines(rows: list[dict]) -> list[str]:
    """The results as a text table."""
    out = []
    for row in rows:
        out.append(f"{row['case']}")
        for what in ("ms", "forward ms", "step GFLOP", "kept MiB", "peak MiB"):
            out.append(f"    {'step ms' if what == 'ms' else what}: " + _values(row[what], ".0f"))
        out.append("    step, of the base: " + _values(row["step, of the base"], ".2f"))
        out.append("    ours times faster a step: " + _values(row["ours times faster"], ".2f"))
        out.append("    ours' own forward, of theirs: " + _values(row["ours' own forward, of theirs"], ".3f"))
        out.append("    sped up, times faster a step: " + _values(row.get("sped up, times faster", {}), ".2f"))
        out.append("    sped up, kept memory of its own: " + _values(row.get("sped up, kept of its own", {}), ".2f"))
        if (share := row.get("ours' kept, of PEFT's")) is not None:
            out.append(f"    ours' kept memory, of PEFT's: {share:.2f}")
    return out


def _values(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())
