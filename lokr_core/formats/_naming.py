"""Module names of a file, taken apart: the prefixes before them, and the name behind."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from .._files import json_object
from ..modules import INNER_WRAPPERS, PREFIX, PREFIXES, ROOTS, WRAPPERS, FilePrefix, ModuleName, with_experts
from ._producers import MARKS

_PLAIN = FilePrefix("", "", False, "plain module names")
_PREFIX = re.compile("|".join(f"({row.pattern})" for row in PREFIXES))  # group n is row n - 1's
_WRAPPERS = re.compile("^" + WRAPPERS.pattern)
_PEFT_ROOT = PREFIX.removesuffix("model.")
_INNER = re.compile(INNER_WRAPPERS)
_ROOT = re.compile(rf"(?:{'|'.join(sorted(ROOTS, key=len, reverse=True))})(?:_(\d+)(?=_|$)|_|$)")
# Directly below PEFT's wrapper these words are modules of the model, not prefixes (Stable Audio's
# ``transformer.layers``).
_OWN_WORDS = re.compile(r"(?:transformer|prior|llama)\.")


def module_names(
    modules: Collection[str], metadata: Mapping[str, str] | None = None
) -> tuple[dict[str, ModuleName], dict[str, None]]:
    """Module names taken apart.

    modules: full names; metadata: of the file

    Returns (full name -> ``ModuleName``, the names of the namings found, in order). An unknown prefix that all names
    without dots share counts as the trainer's setting.

    >>> names, namings = module_names(["lora_unet_blocks_0_attn"])
    >>> names["lora_unet_blocks_0_attn"].path, list(namings)
    ('blocks_0_attn', ['kohya-ss / LyCORIS'])
    """
    names: dict[str, ModuleName] = {}
    namings: dict[str, None] = {}
    left: list[str] = []
    for module in modules:
        names[module], row = _taken_apart(module)
        if row is _PLAIN and "." not in module:
            left.append(module)
        else:
            namings[row.naming] = None
    if left:
        cut = _setting(left, metadata or {})
        for module in left:
            if cut is not None:
                names[module] = ModuleName(module, module[len(cut) :], "", True)
        namings[_PLAIN.naming if cut is None else f"LyCORIS, prefix {cut}" if cut else "flattened module names"] = None
    return with_experts(names), namings


def _taken_apart(module: str) -> tuple[ModuleName, FilePrefix]:
    path = _INNER.sub("", module)
    outer = _WRAPPERS.match(path)
    path = path[outer.end() :] if outer else path
    match = None if outer and _OWN_WORDS.match(path) else _PREFIX.match(path)
    peft = WRAPPERS if _PEFT_ROOT in module else None
    if match is None:
        return ModuleName(module, path, "", False), peft or _PLAIN
    row = PREFIXES[(match.lastindex or 0) - 1]
    path = path[match.end() :]
    # LyCORIS writes lora_unet__blocks if the model itself is of a class that it looks for ("Wan Fun" files).
    path = path.lstrip("_") if row.flattened else _WRAPPERS.sub("", path, count=1)
    return ModuleName(module, path, row.component, row.flattened), peft or row


def _setting(modules: list[str], metadata: Mapping[str, str]) -> str | None:
    """The prefix of all ``modules``, names without dots: "" if they have none, None if it cannot be told."""
    preset = _preset_prefix(metadata)
    if preset and all(module.startswith(preset + "_") for module in modules):
        return preset + "_"
    cuts = list(_common_cuts(modules))
    for cut in cuts:
        # A known word alone may be chance (``unet_head``), but not one with the number of a block.
        found = [match for module in modules if (match := _ROOT.match(module, len(cut)))]
        if len(found) == len(modules) and any(match.group(1) for match in found):
            return cut
    return cuts[1] if len(modules) > 1 and len(cuts) > 1 else None


def _common_cuts(modules: Iterable[str]) -> Iterable[str]:
    """ "" and every beginning that ends in "_" and is common to all ``modules``, the shortest first."""
    low, high = min(modules), max(modules)
    shared = next((at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    yield ""
    yield from (low[: at + 1] for at, sign in enumerate(low[:shared]) if sign == "_" and at + 1 < len(low))


def _preset_prefix(metadata: Mapping[str, str]) -> str | None:
    """``lora_prefix`` of the LyCORIS preset that SimpleTuner keeps in a file's metadata."""
    preset = json_object(metadata.get("lycoris_config")).get("apply_preset")
    prefix = preset.get("lora_prefix") if isinstance(preset, dict) else None
    return prefix if isinstance(prefix, str) else None


def producer(namings: Iterable[str], metadata: Mapping[str, str], names: Iterable[ModuleName] = ()) -> str:
    """Who wrote a file: by its metadata and the ``names`` of its modules, else by its ``namings``."""
    paths = [name.path.replace(".", "_") for name in names]
    for mark in MARKS:
        told = mark.key in metadata and mark.text in metadata[mark.key]
        if told and (not mark.paths or any(re.match(mark.paths, path) for path in paths)):
            return mark.producer
    return ", ".join(namings)
