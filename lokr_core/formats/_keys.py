"""Keys of a file -> the modules their tensors belong to."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..adapter import Foreign, ForeignModule, ModuleName
from ..errors import LoKrFileError
from ..kronecker import same_numbers
from ._producers import ALGORITHMS, WHOLE_FILES

# ``MODULE.lokr_w1``; ``MODULE.lokr_w1.ADAPTER`` in the state dict of a PEFT model; and ``MODULE_lokr_w1``, which
# OneTrainer wrote from 2026-05-29 to 2026-07-03 (its ``__get_legacy_diffusers``).
_LOKR = re.compile(r"(.+)[._](lokr_(?:w[12](?:_[ab])?|t[12]))(?:\.([^.]+))?", re.DOTALL)

# ``MODULE.alpha``; ``MODULE.lora_magnitude_vector``, which PEFT and others write with an adapter's name or "weight".
_BESIDE = re.compile(
    r"(.+)\.(?:(alpha|dora_scale|lokr_dim|initial_norm)|(lora_magnitude_vector)(?:\.[^.]+)?(?:\.weight)?)", re.DOTALL
)

# Tensor name -> algorithm, and the names that PEFT may write with an adapter's name behind the first word.
_KINDS = {end: row.kind for row in ALGORITHMS for end in row.ends + row.named}
_NAMED = {end for row in ALGORITHMS for end in row.named}
_LOHA_LEGACY = re.compile(r"(.+)_(hada_(?:w[12]_[ab]|t[12]))", re.DOTALL)


@dataclass
class SortedKeys:
    """A file's tensors, sorted.

    lokr: module -> tensor name -> tensor
    adapter_names: PEFT's names of adapters found inside keys
    foreign: the tensors that are not LoKr
    """

    lokr: dict[str, dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    adapter_names: dict[str, None] = field(default_factory=dict)
    foreign: Foreign = field(default_factory=Foreign)


def split_keys(tensors: Mapping[str, Tensor]) -> SortedKeys:
    """Sort a file's tensors.

    Raises LoKrFileError if two keys name the same tensor of a module with different numbers, or two adapters are found.

    >>> found = split_keys({"a.lokr_w1": torch.ones(2, 2), "a.alpha": torch.ones(()), "b.diff": torch.ones(2)})
    >>> list(found.lokr["a"]), found.foreign.modules["b"].kind
    (['lokr_w1', 'alpha'], 'full difference')
    """
    found = SortedKeys()
    rest: dict[str, Tensor] = {}
    spelled: dict[tuple[str, str], str] = {}  # (module, tensor name) -> key
    for key, tensor in tensors.items():
        match = _LOKR.fullmatch(key) if "lokr_" in key else None
        if match is None:
            rest[key] = tensor
            continue
        module, name, adapter = match.groups()
        if adapter and adapter != "weight":
            found.adapter_names[adapter] = None
        if len(found.adapter_names) > 1:
            raise LoKrFileError(
                "There are several adapters in this file",
                module=module,
                expected="one adapter",
                found=", ".join(found.adapter_names),
                hint="save them one by one: PEFT's save_pretrained(selected_adapters=[NAME])",
            )
        before = found.lokr[module].setdefault(name, tensor)
        if before is not tensor and not same_numbers(before, tensor):
            raise LoKrFileError(
                f"A module has {name} twice",
                module=module,
                expected="one key for each tensor",
                found=f"{spelled[module, name]} and {key}",
                hint="two files were joined; remove the keys of one of them",
            )
        spelled[module, name] = key
    _take_beside(found.lokr, rest)
    found.foreign = _foreign(rest)
    return found


def _take_beside(lokr: Mapping[str, dict[str, Tensor]], rest: dict[str, Tensor]) -> None:
    """Move the tensors that stand beside a module's factors (alpha, DoRA's magnitude, …) out of ``rest``.

    The magnitude of a module that is a LoRA too is left to the LoRA.
    """
    loras = {key.partition(".lora_")[0] for key in rest if ".lora_" in key and ".lora_magnitude_vector" not in key}
    for key in list(rest):
        match = _BESIDE.fullmatch(key)
        if match is None:
            continue
        module, name = match.group(1), match.group(2) or match.group(3)
        if module in lokr and name not in lokr[module] and (match.group(2) or module not in loras):
            lokr[module][name] = rest.pop(key)


def _foreign(tensors: dict[str, Tensor]) -> Foreign:
    """The modules of tensors that are not LoKr: those of known algorithms first, then a module for each other key."""
    kinds: dict[str, dict[str, None]] = defaultdict(dict)
    keys: dict[str, dict[str, str]] = defaultdict(dict)
    found = {key: _algorithm(key) for key in tensors}
    algorithms = {module for module, _, kind in found.values() if kind}
    for key, (module, name, kind) in sorted(found.items(), key=lambda item: not item[1][2]):
        # alpha, dora_scale and the like belong to the module whose other tensors tell its algorithm.
        if module not in algorithms:
            module, name, kind = key, "", "embedding" if key.startswith("bundle_emb.") else "unknown"
        if kind:
            kinds[module][kind] = None
        keys[module][key] = name
    return Foreign(tensors, {m: ForeignModule(", ".join(kinds[m]), ModuleName(m, m), keys[m]) for m in keys})


def _algorithm(key: str) -> tuple[str, str, str]:
    """(module, tensor name, kind) of a key; kind "" if it does not tell the algorithm. An adapter's name that PEFT put
    into the key is not part of the tensor name.

    >>> _algorithm("a.lora_A.default.weight"), _algorithm("a.alpha")
    (('a', 'lora_A.weight', 'LoRA'), ('a', 'alpha', ''))
    """
    words = key.rsplit(".", 3)
    for start in range(len(words) - 1, 0, -1):
        module, first, *rest = ".".join(words[:start]), *words[start:]
        name, unnamed = ".".join((first, *rest)), ".".join((first, *rest[1:]))
        if name not in _KINDS and unnamed in _NAMED:
            name = unnamed
        if name in _KINDS:
            return module, name, _KINDS[name]
    if match := _LOHA_LEGACY.fullmatch(key):
        return match.group(1), match.group(2), "LoHa"
    module, _, name = key.rpartition(".")
    return module, name, ""


def describe(found: SortedKeys) -> str:
    """What a file without LoKr is, in a few words."""
    keys = list(found.foreign.tensors)
    if not keys:
        return "no tensors at all"
    known = Counter(each.kind for each in found.foreign.modules.values() if each.kind != "unknown")
    if known:
        return ", ".join(f"{count} modules of {kind}" for kind, count in known.items())
    for marks, what in WHOLE_FILES:
        if any(mark in key if mark[-1] in "._" else mark == key for key in keys for mark in marks):
            return what
    return f"{len(keys)} tensors such as {', '.join(keys[:3])}"
