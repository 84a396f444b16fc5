"""All architectures with a table, and which of them a target or a file is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from . import _audio, _flux, _further, _image, _lumina, _text, _unet, _video
from ._translate import aliases_in, spelled_in
from ._words import DIFFUSERS, ORIGINAL, PARAMETERS, Architecture, Shape, Side, Slot, View, Weight, mask_numbers

ARCHITECTURES: tuple[Architecture, ...] = tuple(
    table for family in (_further, _unet, _flux, _image, _lumina, _video, _audio, _text) for table in family.TABLES
)
"""In the order in which they are tried: a target is of the first one whose names fit."""

# Stable Diffusion's UNets share their names; the width of their text encoder tells them apart.
# Columns of a cross attention's key or value -> title.
_UNETS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL refiner", 2048: "SDXL"}
_VIDEO = re.compile(
    r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_.*_(temporal|time_stack)_"
)
_CROSS_ATTENTION = re.compile(
    r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_.*attn2_to_[kv]"
)

_SHARE = 0.8
"""Share of a file's modules that an architecture's table must contain to be guessed."""

_COMMON = ("Flux.1", "Flux.2", "HunyuanVideo")
"""Of architectures that share names, those that most adapters are for."""

_WRAPPERS_TOO = frozenset(("transformer", "decoder"))
"""First words of a table's names that trainers also call a whole model."""


def detect(shapes: Mapping[str, Shape]) -> Architecture | None:
    """The architecture of a target, from its weights' names and numbers of axes. Returns None if no table fits.

    shapes: parameter names in either naming, without the host's prefix -> shapes

    >>> detect({"bert.encoder.layer.0.attention.self.query.weight": (8, 8)}).title
    'BERT'
    """
    view = view_of(shapes)
    return view.architecture if view else None


def view_of(shapes: Mapping[str, Shape]) -> View | None:
    """The target as its table sees it. Returns None if no table fits.

    shapes: parameter names in either naming, without the host's prefix -> shapes
    """
    modules: dict[str, Weight] = {}
    for name, shape in shapes.items():
        module, _, parameter = name.rpartition(".")
        if parameter in PARAMETERS:
            modules[module] = Weight(module, parameter, tuple(shape))
    for architecture in ARCHITECTURES:
        for side, names in ((ORIGINAL, architecture.original), (DIFFUSERS, architecture.diffusers)):
            if names and (weights := _canonical(modules, names)) is not None and _fits(weights, names):
                return View(architecture, side, weights)
    return None


def _canonical(modules: Mapping[str, Weight], side: Side) -> Mapping[str, Weight] | None:
    """The target's weights under the tables' prefixes. Returns None if the first group's probe is missing."""
    if not side.prefixes:
        return modules
    used = []
    for group in side.prefixes:
        prefix = next((p for p in group.prefixes if p + group.probe in modules), None)
        if prefix is not None:
            used.append((prefix, group.prefixes[0]))
        elif group is side.prefixes[0] and group.probe:
            return None
    used.sort(key=lambda pair: -len(pair[0]))
    canonical = {}
    for module, weight in modules.items():
        prefix, first = next((pair for pair in used if module.startswith(pair[0])), ("", ""))
        canonical[first + module[len(prefix) :]] = weight
    return canonical


def _fits(weights: Mapping[str, Weight], side: Side) -> bool:
    def present(wanted: str) -> bool:
        module, _, axes = wanted.partition(":")
        return module in weights and (not axes or len(weights[module].shape) == int(axes))

    return all(map(present, side.has)) and not any(map(present, side.lacks))


def aliases(shapes: Mapping[str, Shape]) -> dict[str, tuple[Slot, ...]]:
    """All other names of a target's modules: module name -> where an update of that name goes.

    shapes: parameter names in either naming, without the host's prefix -> shapes

    For a target in original names these are diffusers' names, each with its rows of a fused weight; for a target in
    diffusers' names the original ones, a fused one with a slot per part. A part of a fused weight is also called
    `qkv.0`, as in OneTrainer's OMI files. Both sides' further spellings are included. Empty if no table fits.

    >>> names = "query key value".split()
    >>> target = {f"bert.encoder.layer.0.attention.self.{name}.weight": (8, 8) for name in names}
    >>> aliases(target)["encoder.layer.0.attention.self.key"][0].module
    'bert.encoder.layer.0.attention.self.key'
    """
    view = view_of(shapes)
    return {} if view is None else aliases_in(view)


def spelled(shapes: Mapping[str, Shape], side: str) -> dict[str, tuple[Slot, ...]]:
    """The target's weights in the tables' names of `side`: module name -> where an update of that name goes.

    shapes: parameter names in either naming, without the host's prefix -> shapes
    side: `ORIGINAL` or `DIFFUSERS`

    A part of a fused weight is a slot with `rows`, a fused name of split weights has several slots with `source_rows`.
    A weight keeps its own name if no rule has it, and all do if no table fits.

    >>> spelled({"net.0.weight": (8, 8)}, DIFFUSERS)
    {'net.0': (Slot(module='net.0', rows=None, swap=False, source_rows=None, parameter='weight'),)}
    """
    view = view_of(shapes)
    if view is None:
        modules = (name.rpartition(".") for name in shapes)
        return {module: (Slot(module, parameter=p),) for module, _, p in modules if p in PARAMETERS}
    return spelled_in(view, side)


def guesses(modules: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Titles of the architectures whose names fit best, the likeliest first; several if they share the file's names.

    modules: module paths (dotted or flattened) -> shapes of their updates

    Architectures with a single naming have nearly empty tables and are never guessed.

    >>> guesses({"double_blocks_0_img_mod_lin": (18432, 3072)})
    ['Flux.1', 'HunyuanVideo', 'HunyuanVideo 1.5', 'HunyuanImage 2.1', 'Ovis-Image', 'LongCat-Image']
    """
    flat = {path.replace(".", "_"): shape for path, shape in modules.items()}
    if any(map(_VIDEO.search, flat)):
        return ["Stable Video Diffusion"]
    for path, shape in flat.items():
        if _CROSS_ATTENTION.search(path):
            return [_UNETS[shape[1]]] if shape[1] in _UNETS else []
    masked = [mask_numbers(path)[0] for path in flat]
    known = [(sum(path in names for path in masked), title) for title, names in _all_names().items()]
    most = max((count for count, _ in known), default=0)
    if not masked or most < _SHARE * len(masked):
        return []
    tied = [title for count, title in known if count == most]
    return sorted(tied, key=lambda title: _COMMON.index(title) if title in _COMMON else len(_COMMON))


@cache
def _all_names() -> dict[str, frozenset[str]]:
    """Title -> every name of the architecture's table, flattened, numbers masked."""
    found = {}
    for architecture in ARCHITECTURES:
        names = {name for rule in architecture.rules for side in (ORIGINAL, DIFFUSERS) for name in rule.names(side)}
        found[architecture.title] = frozenset(mask_numbers(name.replace(".", "_"))[0] for name in names)
    return found


@cache
def roots() -> frozenset[str]:
    """First words of the names of all denoisers: no wrapper is called so.

    >>> "transformer_blocks" in roots(), "core" in roots()
    (True, False)
    """
    found = set()
    for table in ARCHITECTURES:
        if table not in _text.TABLES:
            names = [name for rule in table.rules for side in (ORIGINAL, DIFFUSERS) for name in rule.names(side)]
            sides = (side for side in (table.original, table.diffusers) if side)
            found |= {name.split(".")[0] for name in (*names, *(name for side in sides for name in side.has))}
    return frozenset(found - _WRAPPERS_TOO)
