"""Files of trainers, changed at random: header, offsets, shapes, dtypes, names, metadata and the configuration beside.

``mutant(seed)`` gives the same file each time. ``truth`` reads a file without this project: what its LoKr modules add,
by the formulas of their trainers.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Container
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

PLAIN, PEFT, SCENEWORKS = "plain", "PEFT", "SceneWorks"
PREFIXES = ("lora_unet_", "lycoris_", "diffusion_model.", "transformer.", "")
# Module of the model below -> the shape of its weight.
LAYERS = {"blocks.0.q": (8, 6), "blocks.1.q": (8, 6), "conv": (8, 6, 3, 3), "out": (6, 8)}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8, torch.bool,
           torch.int64, torch.complex64)  # fmt: skip
_OTHERS = ("lora_up.weight", "lora_down.weight", "lora_mid.weight", "lora_A.weight", "lora_B.weight", "diff", "diff_b",
           "w_norm", "b_norm", "alpha", "dora_scale", "hada_w1_a", "hada_w1_b", "oft_blocks", "lora_magnitude_vector",
           "initial_norm", "lokr_dim", "lokr_t1", "weight", "scale_weight")  # fmt: skip
_SHAPES = ((), (0,), (1,), (2,), (6,), (8,), (2, 2), (4, 3), (2, 3), (6, 2), (2, 8), (8, 1), (1, 6), (0, 3),
           (2, 2, 3, 3), (4, 3, 3, 3), (1, 1, 1, 1), (3, 1, 2))  # fmt: skip

# Metadata that a scaling may be read from.
_SETTINGS = {"rank", "alpha", "networkType", "ss_network_dim", "ss_network_alpha", "ss_network_args",
             "ss_network_module", "lora_adapter_metadata", "lycoris_config", "software"}  # fmt: skip


@dataclass
class File:
    """A file's tensors, metadata and the text of the configuration beside it; kind: which trainer's scaling it has."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    kind: str = PLAIN
    config: str | None = None


def base_file(rng: random.Random) -> File:
    kind = rng.choice((PLAIN, PLAIN, PLAIN, PEFT, SCENEWORKS))
    prefix = {PEFT: "base_model.model.", SCENEWORKS: ""}.get(kind) if kind != PLAIN else rng.choice(PREFIXES)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    tensors: dict[str, Tensor] = {}
    rank = rng.choice((1, 2, 3))
    for layer, shape in LAYERS.items():
        name = prefix + (layer if prefix.endswith(".") or not prefix else layer.replace(".", "_"))
        parts = _factors(rng, shape, rank, generator)
        if kind == PLAIN and rng.random() < 0.9:
            parts["alpha"] = torch.tensor(rng.choice((1.0, 2.0, 0.5, 100000.0)))
        if kind == PLAIN and rng.random() < 0.2:
            parts["dora_scale"] = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator) + 0.5
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    if rng.random() < 0.3:
        tensors |= {
            "lora_unet_extra.lora_up.weight": torch.ones(8, 2),
            "lora_unet_extra.lora_down.weight": torch.ones(2, 6),
        }
    metadata = {"ss_output_name": "x", "note": "ü"} if kind == PLAIN else {}
    config = None
    if kind == PEFT:
        config = json.dumps({"peft_type": "LOKR", "r": rank, "alpha": 2 * rank, "target_modules": ["q", "conv", "out"]})
    if kind == SCENEWORKS:
        metadata = {"networkType": "lokr", "rank": str(rank), "alpha": str(2 * rank)}
    return File(tensors, metadata, kind, config)


def _factors(rng: random.Random, shape: tuple[int, ...], rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Both factors for a weight of ``shape``; the kernel of a low-rank one is flattened."""
    out, inn, *kernel = shape

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    form = rng.choice(("whole", "low", "low", "Tucker"))
    k, n, area = out // 2, inn // 2, 9 if kernel else 1
    if form == "Tucker" and kernel:
        w2 = {"lokr_t2": draw(rank, rank, *kernel), "lokr_w2_a": draw(rank, k), "lokr_w2_b": draw(rank, n)}
    elif form == "whole":
        w2 = {"lokr_w2": draw(k, n, *kernel)}
    else:
        w2 = {"lokr_w2_a": draw(k, rank), "lokr_w2_b": draw(rank, n * area)}
    return {"lokr_w1": draw(2, 2), **w2}


def mutant(seed: int) -> tuple[bytes, File, bool]:
    """(bytes of a file, the file that they were made of, whether its trainer's settings are what they were)."""
    rng = random.Random(seed)
    file = base_file(rng)
    metadata, config = dict(file.metadata), file.config
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_HARMLESS if rng.random() < 0.6 else _HARMFUL)(rng, file)
    data = save(file.tensors, file.metadata)
    if rng.random() < 0.3:
        data = rng.choice(_OF_BYTES)(rng, data)
    kept = file.config == config and all(file.metadata.get(key) == value for key, value in metadata.items())
    return data, file, kept and not _SETTINGS & (file.metadata.keys() - metadata.keys())


# What changes no update.
def _shuffle(rng: random.Random, file: File) -> None:
    file.tensors = dict(rng.sample(list(file.tensors.items()), len(file.tensors)))
    file.metadata = dict(rng.sample(list(file.metadata.items()), len(file.metadata)))


def _more_metadata(rng: random.Random, file: File) -> None:
    values = ("", "[]", "{", "null", "ü" * 50, '{"a": {"b": 1}}', "1e999", "[" * 2000)
    keys = ("ss_tag_frequency", "modelspec.title", "ss_base_model_version", "x", "trigger_words", "ss_steps")
    file.metadata[rng.choice(keys)] = rng.choice(values)


def _widen(rng: random.Random, file: File) -> None:
    key = rng.choice(list(file.tensors))
    if file.tensors[key].is_floating_point() and file.tensors[key].dtype.itemsize > 1:
        file.tensors[key] = file.tensors[key].double()


def _alpha_with_an_axis(rng: random.Random, file: File) -> None:
    for key in [key for key in file.tensors if key.endswith(".alpha") and file.tensors[key].numel() == 1]:
        file.tensors[key] = file.tensors[key].reshape(1)


def _add_other(rng: random.Random, file: File) -> None:
    """A tensor of another algorithm, of any shape, on a module of its own."""
    shape = rng.choice(_SHAPES)
    module = rng.choice(("lora_unet_extra", "lora_te_x", "other.module", "norm"))
    file.tensors[f"{module}.{rng.choice(_OTHERS)}"] = torch.ones(shape, dtype=rng.choice(_DTYPES))


_HARMLESS = (_shuffle, _more_metadata, _widen, _alpha_with_an_axis, _add_other, _add_other)


# What may make a file useless.
def _drop(rng: random.Random, file: File) -> None:
    if len(file.tensors) > 1:
        del file.tensors[rng.choice(list(file.tensors))]


def _reshape(rng: random.Random, file: File) -> None:
    file.tensors[rng.choice(list(file.tensors))] = torch.randn(rng.choice(_SHAPES))


def _retype(rng: random.Random, file: File) -> None:
    key = rng.choice(list(file.tensors))
    tensor = file.tensors[key]
    real = tensor.real if tensor.is_complex() else tensor
    file.tensors[key] = torch.nan_to_num(real.float()).clamp(-100, 100).to(rng.choice(_DTYPES))


def _not_finite(rng: random.Random, file: File) -> None:
    key = rng.choice(list(file.tensors))
    dtype = file.tensors[key].dtype
    if dtype.is_floating_point and dtype.itemsize > 1:
        file.tensors[key] = torch.full_like(file.tensors[key], rng.choice((torch.nan, torch.inf, 0.0)))


def _rename(rng: random.Random, file: File) -> None:
    key = rng.choice(list(file.tensors))
    at = rng.randrange(len(key))
    new = rng.choice((key[:at] + rng.choice("._xü/\x00") + key[at + 1 :], key[at:] or "x", key + ".default", key * 2,
                      "module." + key, key.replace(".", "_"), key.upper()))  # fmt: skip
    file.tensors[new] = file.tensors.pop(key)


def _add_beside(rng: random.Random, file: File) -> None:
    """A tensor of another algorithm, of any shape, on a module that is LoKr."""
    module = rng.choice(list(file.tensors)).rpartition(".")[0] or "x"
    file.tensors[f"{module}.{rng.choice(_OTHERS)}"] = torch.ones(rng.choice(_SHAPES), dtype=rng.choice(_DTYPES))


def _spoil_settings(rng: random.Random, file: File) -> None:
    values = ("", "NaN", "-1", "0", "1e400", "two", "[]", "{}", '{"r": 0}', '{"rs_lora": true}', "networks.lokr")
    file.metadata[rng.choice(sorted(_SETTINGS))] = rng.choice(values)
    if file.config is not None:
        at = rng.randrange(len(file.config))
        file.config = rng.choice(
            (
                file.config[:at],
                file.config[:at] + "9" + file.config[at:],
                "[]",
                "{",
                "\ud800".encode("utf8", "replace").decode(),
            )
        )


_HARMFUL = (_drop, _reshape, _retype, _not_finite, _rename, _add_beside, _spoil_settings)


# Changes of the file's bytes.
def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    stop = rng.choice((8, 8 + int.from_bytes(data[:8], "little"), len(data)))
    for _ in range(rng.choice((1, 1, 3, 20))):
        changed[rng.randrange(stop)] = rng.randrange(256)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((data[: rng.randrange(len(data))], data + b"\x00" * rng.choice((1, 100))))


def _header(rng: random.Random, data: bytes) -> bytes:
    """Another number, dtype or shape in an entry of the header, which may claim more than any file could hold."""
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    entry = entries[rng.choice([key for key in entries if key != "__metadata__"])]
    number = rng.choice((0, 1, -1, 2, 7, 10**6, 10**12, 2**63, 10**30, 1.5, True, None, "3"))
    if rng.random() < 0.3:
        entry["dtype"] = rng.choice(("F16", "F64", "I8", "BOOL", "F8_E4M3", "F4", "", None, 3))
    elif rng.random() < 0.5:
        entry["data_offsets"][rng.randrange(2)] = number
    else:
        entry["shape"] = rng.choice(([number], [10**6, 10**6], entry["shape"][::-1], entry["shape"] + [1], [], number))
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


_OF_BYTES = (_flip, _flip, _cut, _header)

_KEY = re.compile(r"(.+)(?:[._](?=lokr)|\.)(lokr_w[12](?:_[ab])?|lokr_t2(?=$|\.)|alpha$)(?:\.[^.]+)?", re.DOTALL)


def truth(tensors: dict[str, Tensor], file: File, wanted: Container[str]) -> dict[str, Tensor]:
    """Module -> ΔW, in fp64 and of any shape, for those ``wanted`` modules whose formula is plain."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match and match.group(1) in wanted and not tensor.is_complex():
            modules.setdefault(match.group(1), {})[match.group(2)] = tensor.double()
    beside = {key.rpartition(".")[0] for key in tensors if key.endswith((".lokr_dim", ".lora_magnitude_vector"))}
    plain = {module: parts for module, parts in modules.items() if module not in beside and _complete(parts)}
    return {module: _delta(parts, _ratio(file)) for module, parts in plain.items()}


def _ratio(file: File) -> float | None:
    if file.kind == PEFT:
        entries = json.loads(file.config or "{}")
        return entries["alpha"] / entries["r"]
    return float(file.metadata["alpha"]) / float(file.metadata["rank"]) if file.kind == SCENEWORKS else None


def _complete(parts: dict[str, Tensor]) -> bool:
    return "lokr_w1" in parts and ("lokr_w2" in parts or {"lokr_w2_a", "lokr_w2_b"} <= parts.keys())


def _delta(parts: dict[str, Tensor], ratio: float | None) -> Tensor:
    w1, rank = parts["lokr_w1"].flatten(1), None  # a kernel of ones
    if "lokr_w2" in parts:
        w2 = parts["lokr_w2"]
    else:
        a, b = parts["lokr_w2_a"], parts["lokr_w2_b"]
        rank = b.shape[0]
        w2 = torch.einsum("ij...,ip,jq->pq...", parts["lokr_t2"], a, b) if "lokr_t2" in parts else a @ b.flatten(1)
    alpha = float(parts["alpha"]) if "alpha" in parts else 0.0
    own = alpha / rank if rank and alpha else 1.0
    scaling = own if ratio is None or alpha else ratio
    grid = torch.einsum("im,kn...->ikmn...", w1, w2)  # (l, k, m, n, *kernel)
    return grid.flatten(2, 3).flatten(0, 1) * scaling
