"""All architectures with a table, and which of them a target is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from . import _audio, _flux, _further, _image, _lumina, _text, _unet, _video
from ._words import DIFFUSERS, ORIGINAL, WEIGHTS, Architecture, Side

ARCHITECTURES: tuple[Architecture, ...] = tuple(
    table for family in (_further, _unet, _flux, _image, _lumina, _video, _audio, _text) for table in family.TABLES
)
"""In the order in which they are tried: a target is of the first one whose names fit."""

# pos_emb_t only tells Cosmos 1 from Cosmos-Predict2.
PARAMETERS = frozenset((*WEIGHTS, "in_proj_weight", "pos_emb_t"))

Shape = tuple[int, ...]


class Weight(NamedTuple):
    """A weight of the target: its module's path, the parameter's name in there, its shape."""

    module: str
    parameter: str
    shape: Shape


class View(NamedTuple):
    """A target in the tables' terms: its architecture, the side its names belong to, table name -> weight."""

    architecture: Architecture
    side: str
    weights: Mapping[str, Weight]


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
    """The target's weights under the tables' prefixes. Returns None if the first prefix group's probe is missing."""
    if not side.prefixes:
        return modules
    used = []
    for group in side.prefixes:
        prefix = next((p for p in group.prefixes if p + group.probe in modules), None)
        if prefix is not None:
            used.append((prefix, group.prefixes[0]))
        elif group is side.prefixes[0]:
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
