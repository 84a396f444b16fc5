"""Attaching an adapter to a model, and the handle on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from .._layers import ATTENTION, CONVOLUTION, EMBEDDING, LINEAR, WeightOf, kind_of, shape_of
from ..adapter import Adapter
from ..errors import LoKrMatchError
from ..handle import Factors, Handle, Setting
from ..kronecker import release_scratch
from ..matching import Match, Report, Target, left_out, resolve, source_of
from ..models import Projections, View, is_pipeline, parts_of, view_of
from ._control import Control
from ._hook import InputHook, LiveHook, hook_of
from ._update import LayerUpdate, Piece
from ._way import LayerPlan

Place = tuple[Match, nn.Module, str]  # a match, the module whose forward it acts on, the weight's name in it


class LiveHandle(Handle):
    """An adapter attached to a model (see ``Handle``): hooks add its update to the layers' outputs.

    ``strength`` may also be a callable that is asked at every layer's forward; if it takes an argument, it gets
    ``step``, which a host sets (a number, a sigma, anything). With ``enabled`` False or a strength of 0 the model's own
    forward runs, at no cost.
    """

    def __init__(self, control: Control, sites: list[tuple[nn.Module, LayerUpdate]]):
        self._control, self._sites = control, sites
        self._projections: Projections | None = None  # of a pipeline

    @classmethod
    def of(cls, model: nn.Module) -> list[LiveHandle]:
        """Handles on all that is attached to ``model``: for a deep copy, whose adapters are its own."""
        found: dict[int, LiveHandle] = {}
        for module in model.modules():
            hook = hook_of(module)
            for part in hook.parts if hook else ():
                found.setdefault(id(part.control), cls(part.control, []))._sites.append((module, part))
        return list(found.values())

    @property
    def report(self) -> Report:
        return self._control.report

    @property
    def _setting(self) -> Setting:
        return Setting(self._control.strength, self._control.enabled)

    @property
    def needs_base(self) -> bool:
        """Whether any module's change depends on the base weight's numbers (DoRA)."""
        return any(piece.weights.dora_axis for _, part in self._sites for piece in part.pieces)

    @property
    def step(self) -> object:
        """What a callable strength is called with."""
        return self._control.step

    @step.setter
    def step(self, step: object) -> None:
        self._control.step = step

    def _places(self) -> list[tuple[str, str]]:
        return [(part.path, part.module) for _, part in self._sites]

    def _set_strength(self, strength: float | Callable) -> None:
        self._control.set(strength)

    def _set_factors(self, factors: list[float]) -> None:
        for (_, part), factor in zip(self._sites, factors, strict=True):
            part.factor = factor

    def _set_enabled(self, enabled: bool) -> None:
        self._control.enabled = enabled
        if enabled:
            _tell_compiler(False)  # it may have been imported since
        else:
            release_scratch()

    def plan(self) -> list[LayerPlan]:
        """How each layer's last forward went, and what either way was estimated to cost.

        Layers that have not run since they were attached, and those that are neither Linear nor convolution, are left
        out. The way depends on the input's and the factors' shapes, the dtype and the kind of device alone.
        """
        last = {part.path: hook.ways.last for module, part in self._sites if (hook := hook_of(module)) is not None}
        return [LayerPlan(path, found.way, *found) for path, found in last.items() if found is not None]

    def release(self) -> None:
        """Release the factors on the devices they were used on; the next forward moves them there again."""
        for _, part in self._sites:
            part.release()
        release_scratch()

    def remove(self) -> None:
        """Take the adapter off, whatever else came or went since. Calling it again does nothing."""
        self._take_off()
        self._removed, self._sites = True, []
        if self._projections is not None:
            self._projections.release()

    def _put_on(self) -> None:
        fresh = [_hook(module, part) for module, part in self._sites]
        _tell_compiler(any(fresh))

    def _take_off(self) -> None:
        self.release()
        for module, part in self._sites:
            _unhook(module, part)

    def _move(self, model: Any, matches: list[Match], expert: str) -> None:
        """Have the updates act on the projections of a pipeline that run now, fused or split."""
        places, _ = _places(matches, view_of(model, self.report.adapter, expert))
        sites = [_site(self._control, *place) for place in places]
        for (_, before), (_, part) in zip(self._sites, sites, strict=True):
            part.factor = before.factor
        self._take_off()
        self._sites = sites
        self._put_on()


def attach(
    model: Any,
    adapter: Adapter,
    strength: float | Callable = 1.0,
    *,
    target: Target | None = None,
    factors: Factors = None,
    weight_of: WeightOf | None = None,
    expert: str = "",
    components: Collection[str] | None = None,
) -> LiveHandle:
    """Add ``adapter`` to what ``model``'s modules put out, and return the handle. No weight is touched.

    model: any ``nn.Module`` with Linears, convolutions (1d to 3d), embeddings or MultiheadAttention, of torch's classes
    or a host's own, quantised or not: y = base(x) + strength · ΔW x, in x's dtype on x's device; or a diffusers
    pipeline: its UNet or transformers and its text encoders, whose projections may be fused and split later
    strength: a number or a callable (see ``LiveHandle``); ``handle.strength`` changes it
    target: names and shapes of the model's weights, if a host knows more of them than the model shows
    factors: multiplies the strength module by module; ``handle.set_factors`` says what it may be, and changes it
    weight_of: a function from a module to its dequantised weight, called for DoRA only, or to None if the module's own
    ``weight`` will do
    expert: "high" or "low", of an adapter for a model of two experts (Wan 2.2); "": the one that the model is, if it
    tells
    components: names of the pipeline's parts that take the adapter; None: all

    Any number of adapters can be attached, and removed in any order. Raises LoKrMatchError if no module belongs to
    the model, LoKrValueError if a number is not finite; the model is untouched then.

    >>> model, x = torch.nn.Linear(6, 4), torch.randn(3, 6)
    >>> w1, w2 = torch.randn(2, 3), torch.randn(2, 2)
    >>> handle = attach(torch.nn.Sequential(model), Adapter({"0": LoKrWeights(Factor(w1), Factor(w2))}), 0.5)
    >>> torch.allclose(model(x), model.forward(x) + 0.5 * x @ torch.kron(w1, w2).T, atol=1e-5)
    True
    >>> handle.strength = 0
    >>> torch.equal(model(x), model.forward(x))
    True
    """
    view = view_of(model, adapter, expert, wrappers=target is not None)
    matches, report = resolve(adapter, target or Target(_shapes(view), source=source_of(model)), view.expert)
    report.notes += view.notes
    control = Control(strength, report, weight_of)
    places, refused = _places(matches, view)
    refused = left_out(matches, components) | refused
    report.refuse(refused)
    report.raise_if_nothing_matched()
    matches = [match for match in matches if match.module not in refused]
    handle = LiveHandle(control, [_site(control, *place) for place in places if place[0].module not in refused])
    if factors is not None:
        handle.set_factors(factors)
    handle._put_on()
    if is_pipeline(model):
        move = partial(handle._move, model, matches, expert)
        handle._projections = Projections(parts_of(model).values(), move)
        handle._projections.watch()
    return handle


def unsupported(model: nn.Module, matches: Iterable[Match]) -> dict[str, str]:
    """The modules of a file that ``attach`` would refuse though they have a place in ``model``, each with the reason.

    matches: the file's, as ``resolve`` gives them
    """
    return _places(matches, View(dict(model.named_modules(remove_duplicate=False))))[1]


def _places(matches: Iterable[Match], view: View) -> tuple[list[Place], dict[str, str]]:
    """(the modules that run, by match; the modules of the file that live does not support, each with the reason)"""
    places: list[Place] = []
    reasons: dict[str, str] = {}
    for match in matches:
        running = match.running(view.fused)
        try:
            places.append((running, *_place(running, view.modules)))
        except LoKrMatchError as error:
            reasons[match.module] = error.problem
    return places, reasons


def _tell_compiler(fresh: bool) -> None:
    """Have torch.compile check for hooks, if it is in use; ``fresh``: there are new ones.

    It checks for hooks once per code object and assumes the answer for every module that shares it; so reset it when
    hooks appear.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return
    if getattr(dynamo.config, "skip_nnmodule_hook_guards", False):
        dynamo.config.skip_nnmodule_hook_guards = False
        fresh = True
    if fresh:
        dynamo.reset()


def _shapes(view: View) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in view.known().items()}
    by_attributes = {f"{name}.weight".lstrip("."): shape_of(module) for name, module in view.modules.items()}
    by_attributes = view.known(by_attributes)
    return shapes | {name: shape for name, shape in by_attributes.items() if shape is not None}


def _place(match: Match, modules: Mapping[str, nn.Module]) -> tuple[nn.Module, str]:
    """The module whose forward is added to, and the weight's name in it.

    Raises LoKrMatchError if live does not support the layer.
    """
    path, parameter = match.slot.module, match.slot.parameter
    module = modules.get(path)
    if module is None:
        raise LoKrMatchError("the model has no such module")
    parent = modules.get(path.rpartition(".")[0]) if path else None
    if isinstance(parent, nn.MultiheadAttention) and parent._modules.get(path.rpartition(".")[2]) is module:
        module, parameter = parent, f"{path.rpartition('.')[2]}.{parameter}"
    kind = kind_of(module)
    if kind in (LINEAR, CONVOLUTION, EMBEDDING) and parameter == "weight":
        sliced = match.slot.rows is not None or len(match.pieces) > 1
        if sliced and (kind == EMBEDDING or (kind == CONVOLUTION and vars(module)["groups"] > 1)):
            layer = "a grouped convolution" if kind == CONVOLUTION else "an embedding"
            raise LoKrMatchError(f"live mode cannot update part of {layer}")
        return module, parameter
    if kind in (LINEAR, CONVOLUTION) and parameter == "bias":
        if getattr(module, "bias", None) is None:
            raise LoKrMatchError("the layer has no bias")
        return module, parameter
    # All other layers are re-run with patched weights: they need plain tensors and a cheap forward.
    owner, _, name = parameter.rpartition(".")
    holder = module.get_submodule(owner)
    weight = holder._parameters.get(name)
    if kind not in (None, ATTENTION) or weight is None or not weight.is_floating_point():
        raise LoKrMatchError(f"live mode does not support {parameter} of a {type(module).__name__}")
    if kind is None and module._modules:
        raise LoKrMatchError(f"live mode does not support a {type(module).__name__} with modules of its own")
    return module, parameter


def _site(control: Control, match: Match, module: nn.Module, parameter: str) -> tuple[nn.Module, LayerUpdate]:
    whole = match.slot.rows is None and len(match.pieces) == 1
    pieces = tuple(Piece(None if whole else start, weights) for start, weights in match.pieces)
    return module, LayerUpdate(control, match.module, match.slot.module, parameter, kind_of(module), pieces)


def _hook(module: nn.Module, part: LayerUpdate) -> bool:
    """Add ``part`` to the module's hook, a new one if it has none. Returns whether a hook is new."""
    found = hook_of(module)
    hook, fresh = found or LiveHook(part.kind), found is None
    if fresh:
        module.register_forward_hook(hook, with_kwargs=True, always_call=True)
        if hook.kind in (LINEAR, CONVOLUTION):
            module.register_forward_pre_hook(InputHook(hook), with_kwargs=True)
    hook.parts = (*hook.parts, part)
    return fresh


def _unhook(module: nn.Module, part: LayerUpdate) -> None:
    hook = hook_of(module)
    if hook is None:
        return
    hook.parts = tuple(other for other in hook.parts if other is not part)
    hook.ways.forget()
    if not hook.parts:
        _drop(module, InputHook, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
        flags = module._forward_hooks_with_kwargs, module._forward_hooks_always_called
        _drop(module, LiveHook, module._forward_hooks, *flags)


def _drop(module: nn.Module, kind: type, hooks: dict, *flags: dict) -> None:
    """Remove the hook of that class, as its ``RemovableHandle`` would, which a deep copy does not have."""
    for key in [key for key, hook in hooks.items() if isinstance(hook, kind)]:
        del hooks[key]
        for flag in flags:
            flag.pop(key, None)
