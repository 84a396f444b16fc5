"""The adapters of a pipeline by name: loaded, weighed, fused and deleted with diffusers' words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from ..adapter import Adapter
from ..errors import LoKrValueError
from ..formats import load_adapter
from ..handle import Handle
from ..live import attach
from ..matching import Report
from ..merge import merge_adapter
from ..models import Projections, parts_of
from ._hub import file_of
from ._weights import Weights, factor_of

_HOME = "_lokr_adapters"
"""The pipeline's attribute that holds its ``PipelineAdapters``."""


@dataclass
class _Loaded:
    """An adapter of a pipeline.

    handles: on the parts that it is merged into, if any, and on those where it is live
    parts: the names of the parts that it acts on; fused: those that it is merged into -> the scale
    """

    adapter: Adapter
    expert: str
    handles: list[Handle]
    report: Report
    weights: Weights = 1.0
    active: bool = True
    fused: Mapping[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> set[str]:
        return {place.partition(".")[0] for handle in self.handles for place in handle.places}


class PipelineAdapters:
    """The adapters of a pipeline by name, as ``load_lokr_weights`` returns them: one object per pipeline.

    They are live until ``fuse`` merges them into the weights. Methods raise LoKrValueError if a name is unknown.
    """

    def __init__(self, pipe: Any):
        self._pipe = pipe
        self._loaded: dict[str, _Loaded] = {}
        self._projections: Projections | None = None  # while an adapter is fused

    @property
    def reports(self) -> dict[str, Report]:
        """Adapter name -> what became of each module of its file."""
        return {name: one.report for name, one in self._loaded.items()}

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Name of a part of the pipeline -> names of the adapters that act on it."""
        acts = {name: one.parts for name, one in self._loaded.items()}
        found = {part: [name for name in acts if part in acts[name]] for part in parts_of(self._pipe)}
        return {part: names for part, names in found.items() if names}

    def get_active_adapters(self) -> list[str]:
        """The names of the adapters in force."""
        return [name for name, one in self._loaded.items() if one.active]

    def set_adapters(self, names: str | Iterable[str], weights: Weights | list[Weights] = None) -> None:
        """Put exactly these adapters in force.

        names: of one adapter or several
        weights: a number for all, or a list with one entry for each: a number; None for 1; or a dict, part of the
        pipeline -> number, or per block as in diffusers: {"unet": {"down": 0.5, "up": {"block_1": [0.2, 1, 1]}}}, for
        a transformer {"transformer": {"single_transformer_blocks": 0.5}}; 1 for what it leaves out

        Raises LoKrValueError if a part or a block is unknown, or a weight is not finite; the former stay in force.
        """
        chosen = self._known(names)
        every = list(weights) if isinstance(weights, list) else [weights] * len(chosen)
        if len(every) != len(chosen):
            raise LoKrValueError("A weight for each adapter", expected=f"{len(chosen)} weights", found=len(every))
        former = {name: (one.weights, one.active) for name, one in self._loaded.items()}
        parts = parts_of(self._pipe)
        for weight in every:
            factor_of(weight, parts)  # raises before anything changes
        try:
            for name, one in self._loaded.items():
                wanted = every[chosen.index(name)] if name in chosen else one.weights
                self._set(one, 1.0 if wanted is None else wanted, name in chosen)
        except BaseException:
            for name, (weight, active) in former.items():
                self._set(self._loaded[name], weight, active)
            raise

    def fuse(
        self,
        names: str | Iterable[str] | None = None,
        lora_scale: float = 1.0,
        components: str | Iterable[str] | None = None,
    ) -> None:
        """Merge adapters into the weights, for a pipeline to run without hooks or to be saved with them.

        names: None for those in force; others come in force; lora_scale: multiplies their weights
        components: the parts of the pipeline to merge into; they stay live on the others. None for all

        Raises LoKrValueError if a part is unknown, or a weight is offloaded to nothing (meta) or to a copy.
        """
        if self._projections is not None:
            self._projections.check()
        chosen = self._parts(components)
        for name in self.get_active_adapters() if names is None else self._known(names):
            one = self._loaded[name]
            new = dict.fromkeys((part for part in chosen if part in one.parts - set(one.fused)), lora_scale)
            if new:
                self._replace(one, {**one.fused, **new})
                self._set(one, one.weights, True)

    def unfuse(self, components: str | Iterable[str] | None = None) -> None:
        """Take all adapters out of the weights, bit for bit, and make them live again; ``components``: of these parts
        of the pipeline.

        Raises LoKrError if diffusers has fused or unfused adapters or projections since: undo that first.
        """
        chosen = self._parts(components)
        for one in self._loaded.values():
            self._replace(one, {part: scale for part, scale in one.fused.items() if part not in chosen})

    def delete_adapters(self, names: str | Iterable[str]) -> None:
        """Remove adapters. Without any, the pipeline is what it was, bit for bit."""
        for name in self._known(names):
            for handle in self._loaded[name].handles:
                handle.remove()
            del self._loaded[name]
        self._watch()

    def _load(self, adapter: Adapter, name: str | None, expert: str) -> None:
        if name is None:
            name = next(n for i in range(len(self._loaded) + 1) if (n := f"default_{i}") not in self._loaded)
        if name in self._loaded:
            raise LoKrValueError(
                "The pipeline has an adapter of that name",
                file=adapter.path,
                expected="a new adapter_name",
                found=name,
                hint=f"choose another name, or call delete_adapters({name!r}) first",
            )
        handle = attach(self._pipe, adapter, expert=expert)
        try:
            for other in self._loaded.values():
                self._set(other, other.weights, False)
        except BaseException:
            handle.remove()
            raise
        self._loaded[name] = _Loaded(adapter, expert, [handle], handle.report)

    def _known(self, names: str | Iterable[str]) -> list[str]:
        """``names`` as a list. Raises LoKrValueError if one is unknown."""
        wanted = [names] if isinstance(names, str) else list(dict.fromkeys(names))
        unknown = [name for name in wanted if name not in self._loaded]
        if unknown:
            known = ", ".join(self._loaded) or "none is loaded"
            raise LoKrValueError("Unknown adapters", expected=known, found=", ".join(unknown))
        return wanted

    def _parts(self, components: str | Iterable[str] | None) -> list[str]:
        """``components``, None for all, as a list. Raises LoKrValueError if one is unknown."""
        known = list(parts_of(self._pipe))
        wanted = known if components is None else [components] if isinstance(components, str) else list(components)
        unknown = [part for part in wanted if part not in known]
        if unknown:
            raise LoKrValueError("Unknown components", expected=", ".join(known), found=", ".join(unknown))
        return wanted

    def _set(self, one: _Loaded, weights: Weights, active: bool) -> None:
        if (one.weights, one.active) == (weights, active):
            return
        factors = self._factors(weights, one.fused)
        for handle in one.handles:
            handle.set_factors(factors)
            handle.enabled = active
        one.weights, one.active = weights, active

    def _factors(self, weights: Weights, fused: Mapping[str, float]) -> Callable[[str], float]:
        """A function from the name of a module to its strength; ``fused``: see ``_Loaded``."""
        weight_of = factor_of(weights, parts_of(self._pipe))
        return lambda place: weight_of(place) * fused.get(place.partition(".")[0], 1.0)

    def _replace(self, one: _Loaded, fused: Mapping[str, float]) -> None:
        """Have the adapter merged into the parts ``fused`` alone, each with its scale."""
        if fused == one.fused:
            return
        factors, live = self._factors(one.weights, fused), one.parts - set(fused)
        sides = ((merge_adapter, set(fused)), (attach, live))
        handles: list[Handle] = []
        try:
            for engine, parts in sides:
                if parts:
                    handles.append(
                        engine(self._pipe, one.adapter, factors=factors, expert=one.expert, components=parts)
                    )
                    handles[-1].enabled = one.active
            report = Report.merged(one.adapter, [handle.report for handle in handles])
            _check_complete(one.report, report)
            for handle in one.handles:
                handle.remove()
        except BaseException:
            for handle in handles:
                handle.remove()
            raise
        one.handles, one.report, one.fused = handles, report, fused
        self._watch()

    def _watch(self) -> None:
        """Raise before a forward if other projections run than when the first of the fused adapters was fused."""
        if any(one.fused for one in self._loaded.values()):
            self._projections = self._projections or Projections(parts_of(self._pipe).values(), self._refuse_change)
            self._projections.watch()
        elif self._projections is not None:
            self._projections.release()
            self._projections = None

    def _refuse_change(self) -> None:
        raise LoKrValueError(
            "fuse_qkv_projections or its opposite was called while adapters were fused",
            expected="the projections as they were when the adapters were fused",
            found=f"fused adapters: {', '.join(name for name, one in self._loaded.items() if one.fused)}",
            hint="undo it, call unfuse(), and then do both again",
        )


def _check_complete(before: Report, now: Report) -> None:
    """Raises LoKrValueError if a module that was applied before is not now: its weight may be quantised."""
    lost = {entry.module for entry in before.applied} - {entry.module for entry in now.applied}
    refused = [entry for entry in now.refused if entry.module in lost]
    if refused:
        raise LoKrValueError(
            f"{len(refused)} modules that act live would not be fused",
            file=now.adapter.path,
            module=refused[0].module,
            expected="plain weights",
            found=": ".join(part for part in (refused[0].reason, refused[0].detail) if part),
            hint="keep the adapter live: quantised weights cannot be merged into",
        )


def load_lokr_weights(
    pipe: Any,
    path: str | PathLike[str],
    adapter_name: str | None = None,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    expert: str = "",
    **hub: Any,
) -> PipelineAdapters:
    """Load a LoKr file into a diffusers pipeline, live, and return the pipeline's adapters.

    As in diffusers, the adapter loaded last is the only one in force until ``set_adapters`` chooses.

    pipe: the pipeline; its UNet or transformers and its text encoders take the adapter
    path: the file, a folder that holds it, or a repository of the Hugging Face hub, "OWNER/NAME"
    weight_name: the file's name in the folder, if it holds several; subfolder: the folder in it
    adapter_name: by which the adapter is called in what is returned; None: "default_0", "default_1", …
    expert: "high" or "low", of a pipeline with two transformers (Wan 2.2): where an adapter goes that does not tell
    hub: revision, token, cache_dir, local_files_only, as ``huggingface_hub.snapshot_download`` takes them

    >>> adapters = load_lokr_weights(pipe, "style.safetensors", adapter_name="style")    # doctest: +SKIP
    >>> adapters.set_adapters("style", 0.8)                                              # doctest: +SKIP
    >>> print(adapters.reports["style"].headline)                                        # doctest: +SKIP
    264 of 264 modules applied

    Raises LoKrFileError if the file cannot be read or fetched, LoKrMatchError if no module belongs to the pipeline,
    LoKrValueError if the pipeline has an adapter of that name; the pipeline is untouched then.
    """
    found = getattr(pipe, _HOME, None)
    adapters = found if isinstance(found, PipelineAdapters) else PipelineAdapters(pipe)
    adapters._load(load_adapter(file_of(path, weight_name, subfolder, hub)), adapter_name, expert)
    setattr(pipe, _HOME, adapters)
    return adapters
