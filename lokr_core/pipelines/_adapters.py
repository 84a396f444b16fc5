"""The adapters of a pipeline by name: loaded, weighed, fused and deleted with diffusers' words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..adapter import Adapter
from ..errors import LoKrValueError
from ..formats import load_adapter
from ..handle import Handle
from ..live import attach
from ..matching import Report
from ..merge import merge_adapter
from ..models import parts_of
from ._projections import Projections
from ._weights import Weights, factor_of

_HOME = "_lokr_adapters"
"""The pipeline's attribute that holds its ``PipelineAdapters``."""


@dataclass
class _Loaded:
    """An adapter of a pipeline. ``fused``: the scale with which it is merged, None while it is live."""

    adapter: Adapter
    expert: str
    handle: Handle
    weights: Weights = 1.0
    active: bool = True
    fused: float | None = None


class PipelineAdapters:
    """The adapters of a pipeline by name, as ``load_lokr_weights`` returns them: one object per pipeline.

    They are live until ``fuse`` merges them into the weights. Methods raise LoKrValueError if a name is unknown.
    """

    def __init__(self, pipe: Any):
        self._pipe = pipe
        self._loaded: dict[str, _Loaded] = {}
        self._projections = Projections(parts_of(pipe).values(), self._attach_again)

    @property
    def reports(self) -> dict[str, Report]:
        """Adapter name -> what became of each module of its file."""
        return {name: one.handle.report for name, one in self._loaded.items()}

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Name of a part of the pipeline -> names of the adapters that act on it."""
        return {
            part: found for part in parts_of(self._pipe) if (found := [n for n in self._loaded if self._on(n, part)])
        }

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
        self._projections.check()
        try:
            for name, one in self._loaded.items():
                wanted = every[chosen.index(name)] if name in chosen else one.weights
                self._set(one, 1.0 if wanted is None else wanted, name in chosen)
        except BaseException:
            for name, (weight, active) in former.items():
                self._set(self._loaded[name], weight, active)
            raise

    def fuse(self, names: str | Iterable[str] | None = None, lora_scale: float = 1.0) -> None:
        """Merge adapters into the weights, for a pipeline to run without hooks or to be saved with them.

        names: None for those in force; others come in force; lora_scale: multiplies their weights

        Raises LoKrValueError if a weight is offloaded to nothing (meta) or to a copy.
        """
        self._projections.check()
        for name in self.get_active_adapters() if names is None else self._known(names):
            one = self._loaded[name]
            if one.fused is None:
                self._replace(one, lora_scale)

    def unfuse(self) -> None:
        """Take all adapters out of the weights, bit for bit, and make them live again.

        Raises LoKrError if diffusers has fused or unfused adapters of its own since: undo that first.
        """
        for one in self._loaded.values():
            if one.fused is not None:
                self._replace(one, None)

    def delete_adapters(self, names: str | Iterable[str]) -> None:
        """Remove adapters. Without any, the pipeline is what it was, bit for bit."""
        for name in self._known(names):
            self._loaded[name].handle.remove()
            del self._loaded[name]
        if not self._loaded:
            self._projections.release()

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
        self._projections.check()
        one = _Loaded(adapter, expert, attach(self._pipe, adapter, expert=expert))
        try:
            for other in self._loaded.values():
                self._set(other, other.weights, False)
        except BaseException:
            one.handle.remove()
            raise
        self._loaded[name] = one
        self._projections.watch()

    def _known(self, names: str | Iterable[str]) -> list[str]:
        """``names`` as a list. Raises LoKrValueError if one is unknown."""
        wanted = [names] if isinstance(names, str) else list(dict.fromkeys(names))
        unknown = [name for name in wanted if name not in self._loaded]
        if unknown:
            known = ", ".join(self._loaded) or "none is loaded"
            raise LoKrValueError("Unknown adapters", expected=known, found=", ".join(unknown))
        return wanted

    def _on(self, name: str, part: str) -> bool:
        return any(place.startswith(f"{part}.") for place in self._loaded[name].handle.places)

    def _set(self, one: _Loaded, weights: Weights, active: bool) -> None:
        if (one.weights, one.active) == (weights, active):
            return
        one.handle.set_factors(factor_of(weights, parts_of(self._pipe)))
        one.handle.enabled = active
        one.weights, one.active = weights, active

    def _replace(self, one: _Loaded, fused: float | None) -> None:
        """Merge the adapter with the scale ``fused``, or make it live if that is None."""
        factors = factor_of(one.weights, parts_of(self._pipe))
        engine = attach if fused is None else merge_adapter
        handle: Handle = engine(
            self._pipe, one.adapter, 1.0 if fused is None else fused, factors=factors, expert=one.expert
        )
        try:
            _check_complete(one.handle.report, handle.report)
            one.handle.remove()
        except BaseException:
            handle.remove()
            raise
        one.active = one.active or fused is not None
        handle.enabled = one.active
        one.handle, one.fused = handle, fused

    def _attach_again(self) -> None:
        """Find the live adapters' places anew. Raises LoKrValueError if one is fused: its weights are not there."""
        fused = [name for name, one in self._loaded.items() if one.fused is not None]
        if fused:
            raise LoKrValueError(
                "fuse_qkv_projections or its opposite was called while adapters were fused",
                expected="the projections as they were when the adapters were fused",
                found=f"fused adapters: {', '.join(fused)}",
                hint="undo it, call unfuse(), and then do both again",
            )
        for one in self._loaded.values():
            self._replace(one, None)


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
    expert: str = "",
) -> PipelineAdapters:
    """Load a LoKr file into a diffusers pipeline, live, and return the pipeline's adapters.

    As in diffusers, the adapter loaded last is the only one in force until ``set_adapters`` chooses.

    pipe: the pipeline; its UNet or transformers and its text encoders take the adapter
    path: the file, or a folder that holds it; weight_name: the file's name in the folder, if it holds several
    adapter_name: by which the adapter is called in what is returned; None: "default_0", "default_1", …
    expert: "high" or "low", of a pipeline with two transformers (Wan 2.2): where an adapter goes that does not tell

    >>> adapters = load_lokr_weights(pipe, "style.safetensors", adapter_name="style")    # doctest: +SKIP
    >>> adapters.set_adapters("style", 0.8)                                              # doctest: +SKIP
    >>> print(adapters.reports["style"].headline)                                        # doctest: +SKIP
    264 of 264 modules applied

    Raises LoKrFileError if the file cannot be read, LoKrMatchError if no module belongs to the pipeline,
    LoKrValueError if the pipeline has an adapter of that name; the pipeline is untouched then.
    """
    found = getattr(pipe, _HOME, None)
    adapters = found if isinstance(found, PipelineAdapters) else PipelineAdapters(pipe)
    adapters._load(load_adapter(Path(path, weight_name) if weight_name else path), adapter_name, expert)
    setattr(pipe, _HOME, adapters)
    return adapters
