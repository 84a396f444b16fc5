"""Module names of a file, taken apart: the prefixes before them, and the name behind."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping

from ..adapter import ModuleName
from ._producers import INNER_WRAPPERS, MARKS, PREFIXES, ROOTS, WRAPPERS, Prefix

_PLAIN = Prefix("", "", False, "plain module names")
_PREFIX = re.compile("|".join(f"(?P<p{number}>{row.pattern})" for number, row in enumerate(PREFIXES)))
_WRAPPERS = re.compile(WRAPPERS.pattern)
_INNER = re.compile(INNER_WRAPPERS)
_ROOT = re.compile(rf"(?:{'|'.join(sorted(ROOTS, key=len, reverse=True))})(?:_(\d+)(?=_|$)|_|$)")
# These words are also names of modules inside a model (Stable Audio's ``transformer.layers``), so directly below
# PEFT's wrapper they are the model's own.
_OWN_WORDS = re.compile(r"(?:transformer|prior|llama)\.")


def module_names(
    modules: Collection[str], metadata: Mapping[str, str] | None = None
) -> tuple[dict[str, ModuleName], dict[str, None]]:
    """Every module's name taken apart, and what such namings are called, in the order in which they come.

    A prefix that is nobody's but stands before all names with "_" for dots is taken to be the trainer's setting.
    """
    names, namings, left = {}, {}, []
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
    return names, namings


def _taken_apart(module: str) -> tuple[ModuleName, Prefix]:
    path = _INNER.sub("", module)
    outer = _WRAPPERS.match(path)
    path = path[outer.end() :] if outer else path
    match = None if outer and _OWN_WORDS.match(path) else _PREFIX.match(path)
    peft = WRAPPERS if "base_model." in module else None
    if match is None:
        return ModuleName(module, path, "", False), peft or _PLAIN
    row = PREFIXES[int(match.lastgroup[1:])]
    path = path[match.end() :]
    inner = None if row.flattened else _WRAPPERS.match(path)
    if inner:
        path = path[inner.end() :]
    if row.flattened:
        # LyCORIS writes lora_unet__blocks where the model itself is of a class that it looks for ("Wan Fun" files).
        path = path.lstrip("_")
    return ModuleName(module, path, row.component, row.flattened), peft or row


def _setting(modules: list[str], metadata: Mapping[str, str]) -> str | None:
    """The prefix before all of ``modules``, names without a dot; "" where the names begin at once; None unknown."""
    told = _preset_prefix(metadata)
    if told and all(module.startswith(told + "_") for module in modules):
        return told + "_"
    cuts = list(_common_cuts(modules))
    for cut in cuts:
        # A known word alone may be chance (``unet_head``); one with the number of a block is none.
        found = [_ROOT.match(module, len(cut)) for module in modules]
        if all(found) and any(match.group(1) for match in found):
            return cut
    return cuts[1] if len(modules) > 1 and len(cuts) > 1 else None


def _common_cuts(modules: Iterable[str]) -> Iterable[str]:
    """ "" and every beginning that all of ``modules`` share and that ends in "_", the shortest first."""
    low, high = min(modules), max(modules)
    shared = next((at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    yield ""
    yield from (low[: at + 1] for at, sign in enumerate(low[:shared]) if sign == "_" and at + 1 < len(low))


def _preset_prefix(metadata: Mapping[str, str]) -> str | None:
    """``lora_prefix`` of the LyCORIS preset that SimpleTuner keeps in a file's metadata."""
    try:
        prefix = json.loads(metadata["lycoris_config"])["apply_preset"]["lora_prefix"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return prefix if isinstance(prefix, str) else None


def producer(namings: Iterable[str], metadata: Mapping[str, str]) -> str:
    """Who wrote a file: what its metadata says, else what its names are called."""
    for mark in MARKS:
        if mark.text in metadata.get(mark.key, "") and mark.key in metadata:
            return mark.producer
    return ", ".join(namings)
