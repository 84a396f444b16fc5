"""Keys of a file -> the modules their tensors belong to."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import LoKrFileError
from ._producers import ALGORITHMS, WHOLE_FILES

# ``MODULE.lokr_w1``; with PEFT's name of an adapter behind it where a model's state dict was saved as it is; and
# ``MODULE_lokr_w1``, as OneTrainer wrote it from 2026-05-29 to 2026-07-03 (its ``__get_legacy_diffusers``).
_LOKR = re.compile(r"(.+)[._](lokr_(?:w[12](?:_[ab])?|t[12]))(?:\.([^.]+))?", re.DOTALL)
_SHARED = ("alpha", "dora_scale")


def _endings() -> re.Pattern[str]:
    """One pattern for the endings of all other algorithms, a group per algorithm."""
    choices = []
    for number, row in enumerate(ALGORITHMS):
        ends = [re.escape(end) for end in row.ends]
        for end in row.named:
            first, _, rest = end.partition(".")
            ends.append(re.escape(first) + r"(?:\.[^.]+)?" + (re.escape("." + rest) if rest else ""))
        choices.append(f"(?P<a{number}>{'|'.join(ends)})")
    return re.compile(rf"(.+)[.](?:{'|'.join(choices)})", re.DOTALL)


_OTHER = _endings()
_LOHA_LEGACY = re.compile(r"(.+)_(hada_(?:w[12]_[ab]|t[12]))", re.DOTALL)


@dataclass
class Parts:
    """A file's tensors, sorted.

    ``lokr``: module -> tensor name -> tensor. ``adapter_names``: PEFT's names of adapters found inside keys.
    ``other``: key -> tensor that is no LoKr. ``other_keys``: such a key -> (module, tensor name), the name as
    consumers expect it, or (key, "") where nothing is known of it. ``other_kinds``: module -> what it is.
    """

    lokr: dict[str, dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    adapter_names: dict[str, None] = field(default_factory=dict)
    other: dict[str, Tensor] = field(default_factory=dict)
    other_keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    other_kinds: dict[str, str] = field(default_factory=dict)


def split_keys(tensors: Mapping[str, Tensor]) -> Parts:
    """Sort a file's tensors. Raises LoKrFileError where two keys name the same tensor of a module."""
    parts = Parts()
    shared, spelled = [], {}
    for key, tensor in tensors.items():
        if "lokr_" in key and (match := _LOKR.fullmatch(key)):
            module, name, adapter = match.groups()
            if adapter and adapter != "weight":
                parts.adapter_names[adapter] = None
            if len(parts.adapter_names) > 1:
                raise LoKrFileError(
                    "There are several adapters in this file",
                    module=module,
                    expected="one adapter",
                    found=", ".join(parts.adapter_names),
                    hint="save them one by one: PEFT's save_pretrained(selected_adapters=[NAME])",
                )
            before = parts.lokr[module].setdefault(name, tensor)
            if before is not tensor and not same_numbers(before, tensor):
                raise LoKrFileError(
                    f"A module has {name} twice",
                    module=module,
                    expected="one key for each tensor",
                    found=f"{spelled[module, name]} and {key}",
                    hint="the file was made by joining two; take the keys of one of them out",
                )
            spelled[module, name] = key
        elif key.endswith((".alpha", ".dora_scale")):
            shared.append(key)
            parts.other[key] = tensor
        else:
            parts.other[key] = tensor
    for key in shared:
        module, _, name = key.rpartition(".")
        if module in parts.lokr:
            parts.lokr[module][name] = parts.other.pop(key)
    _sort_others(parts)
    return parts


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Of tensors on the meta device, which have no numbers, only shape and dtype can be told."""
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and (one.is_meta or other.is_meta or torch.equal(one, other))


def _sort_others(parts: Parts) -> None:
    kinds: dict[str, dict[str, None]] = defaultdict(dict)
    unclear = []
    for key in parts.other:
        found = _algorithm(key)
        if found is None:
            unclear.append(key)
            continue
        module, name, kind = found
        kinds[module][kind] = None
        parts.other_keys[key] = module, name
    for key in unclear:
        # alpha, dora_scale and the like belong to the module whose other tensors told what it is.
        module, _, name = key.rpartition(".")
        parts.other_keys[key] = (module, name) if module in kinds else (key, "")
        if module not in kinds:
            parts.other_kinds[key] = "embedding" if key.startswith("bundle_emb.") else "unknown"
    parts.other_kinds = {**{module: ", ".join(found) for module, found in kinds.items()}, **parts.other_kinds}


def _algorithm(key: str) -> tuple[str, str, str] | None:
    """(module, tensor name, kind) of a key of another algorithm; the name of an adapter is left out of the name."""
    match = _OTHER.fullmatch(key)
    if match is None:
        match = _LOHA_LEGACY.fullmatch(key)
        return (match.group(1), match.group(2), "LoHa") if match else None
    row = ALGORITHMS[int(match.lastgroup[1:])]
    name = match.group(match.lastgroup)
    if name not in row.ends:
        first, _, rest = name.partition(".")
        last = rest.rpartition(".")[2]
        name = f"{first}.{last}" if f"{first}.{last}" in row.named else first
    return match.group(1), name, row.kind


def describe(parts: Parts) -> str:
    """What a file without LoKr is, in a few words."""
    keys = list(parts.other)
    if not keys:
        return "no tensors at all"
    known = Counter(kind for kind in parts.other_kinds.values() if kind != "unknown")
    if known:
        return ", ".join(f"{count} modules of {kind}" for kind, count in known.items())
    return _whole_file(keys) or f"{len(keys)} tensors such as {', '.join(keys[:3])}"


def _whole_file(keys: Iterable[str]) -> str | None:
    def marked(marks: tuple[str, ...]) -> Iterator[bool]:
        return (mark in key if mark[-1] in "._" else mark == key for key in keys for mark in marks)

    return next((what for marks, what in WHOLE_FILES if any(marked(marks))), None)
