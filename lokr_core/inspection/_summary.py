"""What is in an adapter file, for a person and for a program."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path

import torch

from ..adapter import Adapter, LoKrWeights, ModuleName
from ..display import human_bytes, human_count, rounded
from ..kronecker import Factor, kron_norm
from ..names import base_model_of
from ._energy import Energy, HeatMap, place_of
from ._metadata import frequent_tags, title, trained_with, trigger_words

_DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
_OUTLIER = 30  # times the median from which a module stands out


@dataclass(frozen=True)
class ModuleInfo:
    """One LoKr module.

    shape: of its weight; a kernel that the file flattened is part of the second axis
    norm: ‖ΔW‖ = ‖scaling · W1 ⊗ W2‖ at strength 1, for DoRA before its magnitude
    form: "whole" if both factors are, else "low-rank" or "Tucker"
    block: the model's block, by the name, as in a list of strengths ("IN4")
    """

    name: str
    component: str
    kind: str
    shape: tuple[int, ...]
    w1: str
    w2: str
    rank: int | None
    tucker: bool
    scaling: float
    alpha: float | None
    dora: str | None
    dtype: str
    form: str
    parameters: int
    norm: float
    block: str

    @property
    def rms(self) -> float:
        """The root mean square of ΔW's numbers, which compares modules of different sizes."""
        return self.norm / prod(self.shape) ** 0.5


@dataclass(frozen=True)
class Note:
    """Something that was assumed or looks wrong, and the number of modules concerned, with one as ``example``."""

    text: str
    modules: int = 0
    example: str = ""

    @property
    def line(self) -> str:
        """The note for a person."""
        if not self.modules:
            return self.text
        where = self.example if self.modules == 1 else f"{self.modules:,} modules, such as {self.example}"
        return f"{self.text} ({where})"


@dataclass
class Inspection:
    """What an adapter holds. ``text()`` is for a person, ``as_dict()`` for a program (ready for JSON).

    architecture: by the modules' names and shapes, None if unknown
    base_model: metadata key -> value, for the keys that describe the base model; base_model_text: the answer for a
        person, "" if unknown
    """

    file: Path | None
    title: str
    producer: str
    architecture: str | None
    base_model: dict[str, str]
    base_model_text: str
    trained_with: dict[str, str]
    trigger_words: list[str]
    tags: dict[str, int]
    modules: list[ModuleInfo]
    other_kinds: dict[str, int]
    bytes: int
    full_bytes: int
    heat: HeatMap
    notes: list[Note] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return sum(module.parameters for module in self.modules)

    @property
    def full_parameters(self) -> int:
        """Numbers of a full difference of the same weights."""
        return sum(prod(module.shape) for module in self.modules)

    @property
    def kinds(self) -> dict[str, int]:
        """Kind of module -> how many, the most frequent first."""
        return dict(Counter(module.kind for module in self.modules).most_common())

    def as_dict(self) -> dict:
        """For a program, ready for JSON."""
        data = {key: value for key, value in vars(self).items() if key not in ("modules", "notes", "heat")}
        return {
            **data,
            "file": None if self.file is None else str(self.file),
            "kinds": self.kinds,
            "parameters": self.parameters,
            "full_parameters": self.full_parameters,
            "notes": [asdict(note) for note in self.notes],
            "heat": asdict(self.heat),
            "modules": [{**asdict(module), "rms": module.rms} for module in self.modules],
        }

    def text(self, lines: int = 12) -> str:
        """``lines`` groups of modules at most."""
        unstated = "not stated"
        ratio = self.full_parameters / self.parameters
        dtypes = ", ".join(dict.fromkeys(module.dtype for module in self.modules))
        others = ", ".join(f"{n} × {kind}" for kind, n in self.other_kinds.items())
        facts = {
            "title": self.title,
            "producer": self.producer,
            "base model": self._base_model() or "not known",
            "trained with": ", ".join(f"{key} {rounded(value)}" for key, value in self.trained_with.items())
            or unstated,
            "trigger words": ", ".join(self.trigger_words),
            "frequent tags": ", ".join(f"{tag} ({n})" for tag, n in self.tags.items()),
            "modules": f"{len(self.modules):,}: " + ", ".join(f"{n} {kind}" for kind, n in self.kinds.items()),
            "size": f"{human_count(self.parameters)} numbers, {human_bytes(self.bytes)} in {dtypes}; a full "
            f"difference: {human_count(self.full_parameters)}, {human_bytes(self.full_bytes)} ({_ratio(ratio)} ×)",
            "change ‖ΔW‖": self._norms(),
            "also holds": others and f"{others} (not LoKr)",
        }
        shown = [f"{label:<14} {text}" for label, text in facts.items() if text]
        notes = [f"note: {note.line}" for note in self.notes] or ["nothing suspicious"]
        heading = self.file.name if self.file else "an adapter in memory"
        return "\n".join([heading, "", *shown, "", *self._table(lines), "", *notes])

    def _base_model(self) -> str:
        stated = "; ".join(f"{value} ({key})" for key, value in self.base_model.items())
        if self.architecture is None:
            return stated
        return f"{self.base_model_text}; the file says {stated}" if stated else self.base_model_text

    def _norms(self) -> str:
        ranked = sorted(self.modules, key=lambda module: module.norm)
        median = statistics.median(module.norm for module in ranked)
        low, high = ranked[0], ranked[-1]
        return f"median {median:.3g}, from {low.norm:.3g} ({low.name}) to {high.norm:.3g} ({high.name})"

    def _table(self, lines: int) -> list[str]:
        """Modules that differ in name and norm alone, counted, in aligned columns."""
        groups = Counter(
            (m.component, m.kind, _times(m.shape), m.w1, m.w2, f"{m.scaling:.4g}", m.dora or "-") for m in self.modules
        ).most_common()
        rows: list[tuple[str, ...]] = [("count", "part", "kind", "weight", "w1", "w2", "scaling", "DoRA")]
        rows += [(f"{n:,}", component or "-", *rest) for (component, *rest), n in groups[:lines]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = []
        for count, *rest in rows:
            cells = [cell.ljust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            table.append("  ".join([count.rjust(widths[0]), *cells]).rstrip())
        if len(groups) > lines:
            table.append(f"… and {sum(n for _, n in groups[lines:]):,} modules in {len(groups) - lines} more groups")
        return table


def inspect_adapter(adapter: Adapter, base: Mapping[str, float] | None = None) -> Inspection:
    """What ``adapter`` holds. Nothing of the size of a weight is built: 1,000 modules take about a second.

    base: module -> ‖W‖ of its weight; the heat map then shows ‖ΔW‖/‖W‖, of these modules alone
    """
    model = base_model_of(adapter.names, {m: weights.shape for m, weights in adapter.items()}, adapter.metadata)
    architecture = model.title if model.guessed else None
    places = {module: place_of(name, architecture) for module, name in adapter.names.items()}
    modules = [_module(m, weights, adapter.names[m], places[m].block) for m, weights in adapter.items()]
    tensors = [tensor for weights in adapter.values() for tensor in weights.tensors.values()]
    full = sum(prod(w.shape) * next(iter(w.w2.tensors.values())).element_size() for w in adapter.values())
    return Inspection(
        file=adapter.path,
        title=title(adapter.metadata),
        producer=adapter.producer,
        architecture=architecture,
        base_model=dict(model.stated),
        base_model_text=model.text,
        trained_with=trained_with(adapter.metadata),
        trigger_words=trigger_words(adapter.metadata),
        tags=frequent_tags(adapter.metadata),
        modules=modules,
        other_kinds=dict(Counter(each.kind for each in adapter.foreign.modules.values()).most_common()),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        full_bytes=full,
        heat=HeatMap.of(
            Energy(places[module.name], module.norm, None if base is None else base[module.name])
            for module in modules
            if base is None or module.name in base
        ),
        notes=_notes(adapter, modules, model.guessed),
    )


def _module(name: str, weights: LoKrWeights, spelled: ModuleName, block: str) -> ModuleInfo:
    dtypes = dict.fromkeys(t.dtype for f in (weights.w1, weights.w2) for t in f.tensors.values())
    return ModuleInfo(
        name=name,
        component=spelled.component,
        kind=_kind(weights, spelled),
        shape=weights.shape,
        w1=_form(weights.w1),
        w2=_form(weights.w2),
        rank=weights.rank,
        tucker=weights.is_tucker,
        scaling=weights.scaling,
        alpha=weights.alpha,
        dora=weights.dora_axis,
        dtype=", ".join(_DTYPES.get(dtype, str(dtype)) for dtype in dtypes),
        form="Tucker" if weights.is_tucker else "whole" if weights.rank is None else "low-rank",
        parameters=weights.numel,
        norm=abs(weights.scaling) * kron_norm(weights.w1, weights.w2),
        block=block,
    )


def _kind(weights: LoKrWeights, name: ModuleName) -> str:
    """The kind of layer, as far as it is known: files may flatten a kernel, or omit a 1×1 one."""
    kernel = weights.shape[2:]
    if kernel:
        return f"Conv{len(kernel)}d {_times(kernel)}"
    if not re.search(r"conv(?!ers)", name.path.lower()):
        return "Linear"
    return "Conv 1×1" if weights.w2.rank is None else "Conv, kernel flattened"


def _form(factor: Factor) -> str:
    """ "8×8", or with its form: "320×320 of rank 4"."""
    if factor.rank is None:
        return _times(factor.shape)
    return f"{_times(factor.shape)} {'Tucker, rank' if factor.t is not None else 'of rank'} {factor.rank}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3g}" if ratio < 1000 else f"{ratio:,.0f}"


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _notes(adapter: Adapter, modules: list[ModuleInfo], guessed: bool) -> list[Note]:
    """What was assumed in reading, then what looks wrong; modules with the same note together."""
    notes = [Note(text) for text in adapter.notes]
    assumed: dict[str, list[str]] = {}
    for name, weights in adapter.items():
        for text in weights.notes:
            assumed.setdefault(text, []).append(name)
    notes += [Note(text, len(names), names[0]) for text, names in assumed.items()]

    def suspect(text: str, wrong: Callable[[ModuleInfo], bool]) -> None:
        found = [module for module in modules if wrong(module)]
        if found:
            notes.append(Note(text, len(found), found[0].name))

    scaling = statistics.median(abs(module.scaling) for module in modules)
    rms = statistics.median(module.rms for module in modules)
    suspect("ΔW is zero: not trained, or trained without effect", lambda m: m.norm == 0)
    suspect(
        f"the scaling is far from the usual {scaling:.4g}: ranks that differ by module with one alpha do that",
        lambda m: not scaling / 8 < abs(m.scaling) < scaling * 8,
    )
    suspect(f"ΔW is over {_OUTLIER} times as large as the median module's", lambda m: m.rms > _OUTLIER * rms > 0)
    suspect("more numbers than a full difference would have", lambda m: m.parameters > prod(m.shape))
    suspect("the kernel is flattened in the file; the model's weight tells it", lambda m: m.kind.endswith("flattened"))
    suspect("factors of different dtypes", lambda m: "," in m.dtype)
    unknown = [module for module, each in adapter.foreign.modules.items() if each.kind == "unknown"]
    if unknown:
        notes.append(Note(f"{len(unknown)} tensors of unknown kind, such as {unknown[0]}"))
    if not adapter.metadata:
        unknown_facts = "trigger words" if guessed else "base model and trigger words"
        notes.append(Note(f"the file has no metadata: {unknown_facts} are not known"))
    return notes
