"""Attaching an adapter to a model, and the handle on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from .._layers import ATTENTION, CONV, EMBEDDING, LINEAR, WeightOf, kind_of, shape_of
from ..adapter import Adapter, check_strength
from ..errors import LoKrValueError
from ..matching import APPLIED, REFUSED, Match, Report, Target, resolve
from ._control import Control
from ._hook import InputHook, LiveHook, hook_of
from ._update import Part, Piece


class LiveHandle:
    """An adapter attached to a model. Leaving a ``with`` block, or ``remove()``, takes it off again.

    ``strength``: a number, or a callable that is asked at every layer's forward; if it takes an argument, it gets
    ``step``, which is for a host to set (a number, a sigma, anything). Set either at any time.
    ``enabled``: False leaves the model's own forward, at no cost, as a strength of 0 does.
    ``report`` tells what became of each module. ``places``: the model's modules that the adapter changes.
    """

    def __init__(self, control: Control, sites: list[tuple[nn.Module, Part]]):
        self._control, self._sites = control, sites

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
    def places(self) -> list[str]:
        return list(dict.fromkeys(part.path for _, part in self._sites))

    @property
    def needs_base(self) -> bool:
        """Whether any module's change depends on the base weight's numbers (DoRA)."""
        return any(piece.weights.dora_axis for _, part in self._sites for piece in part.pieces)

    @property
    def strength(self) -> float | Callable:
        return self._control.strength

    @strength.setter
    def strength(self, strength: float | Callable) -> None:
        self._control.set(strength)

    @property
    def step(self) -> object:
        return self._control.step

    @step.setter
    def step(self, step: object) -> None:
        self._control.step = step

    @property
    def enabled(self) -> bool:
        return self._control.enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._control.enabled = bool(enabled)
        if enabled:
            _tell_compiler(False)  # it may have been imported since

    def set_strengths(self, factors: Mapping[str, float] | Callable[[str], float]) -> None:
        """Multiply the strength module by module: a mapping of the model's module names (``places``) or the file's to
        factors, 1 for those left out, or a function from the model's module name to a factor.

        Raises LoKrValueError for a name that is none of them, or a factor that is no finite number; nothing is changed
        then.
        """
        if callable(factors):
            new = [check_strength(factors(part.path)) for _, part in self._sites]
        else:
            known = {name for _, part in self._sites for name in (part.path, part.module)}
            unknown = [name for name in factors if name not in known]
            if unknown:
                raise LoKrValueError(
                    "There are strengths for modules that this adapter does not change",
                    file=self.report.adapter.path,
                    expected=f"some of {', '.join(self.places)}",
                    found=", ".join(map(str, unknown)),
                )
            new = [check_strength(factors.get(p.path, factors.get(p.module, 1.0))) for _, p in self._sites]
        for (_, part), factor in zip(self._sites, new, strict=True):
            part.factor = factor

    def release(self) -> None:
        """Let go of the factors on the devices they were used on; the next forward brings them there again."""
        for _, part in self._sites:
            part.release()

    def remove(self) -> None:
        """Take the adapter off, whatever else came or went since. Calling it again does nothing."""
        self.release()
        for module, part in self._sites:
            _unhook(module, part)
        self._sites = []

    def __enter__(self) -> LiveHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def attach(
    model: nn.Module,
    adapter: Adapter,
    strength: float | Callable = 1.0,
    *,
    target: Target | None = None,
    weight_of: WeightOf | None = None,
) -> LiveHandle:
    """Add ``adapter`` to what ``model``'s modules put out, and return the handle. No weight is touched.

    model: any ``nn.Module`` with Linears, convolutions (1d to 3d), embeddings or MultiheadAttention, of torch's classes
    or a host's own, quantised or not: y = base(x) + strength · ΔW x, in x's dtype on x's device
    strength: a number or a callable (see ``LiveHandle``)
    target: names and shapes of the model's weights, where a host knows more of them than the model shows
    weight_of: a function from a module to its dequantised weight, asked for DoRA alone, or None where the module's own
    ``weight`` will do

    Any number of adapters can be attached, and removed in any order. Raises LoKrMatchError where no module belongs to
    the model, LoKrValueError for a strength that is no finite number; the model is untouched then.

    >>> model, x = torch.nn.Linear(6, 4), torch.randn(3, 6)
    >>> w1, w2 = torch.randn(2, 3), torch.randn(2, 2)
    >>> handle = attach(torch.nn.Sequential(model), Adapter({"0": LoKrWeights(Factor(w1), Factor(w2))}), 0.5)
    >>> torch.allclose(model(x), model.forward(x) + 0.5 * x @ torch.kron(w1, w2).T, atol=1e-5)
    True
    >>> handle.strength = 0
    >>> torch.equal(model(x), model.forward(x))
    True
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    matches, report = resolve(adapter, target or Target(_shapes(model, modules)))
    control = Control(strength, report, weight_of)
    sites, refused = [], {}
    for match in matches:
        place = _place(match, modules)
        if isinstance(place, str):
            refused[match.module] = place
        else:
            sites.append((place[0], _part(control, match, *place)))
    _refuse(report, refused)
    report.raise_if_nothing_matched()
    handle = LiveHandle(control, [site for site in sites if site[1].module not in refused])
    fresh = [_hook(module, part) for module, part in handle._sites]
    _tell_compiler(any(fresh))
    return handle


def _tell_compiler(fresh: bool) -> None:
    """Have torch.compile look at hooks, where it is in use; ``fresh``: there are new ones.

    By itself it looks for them when it first compiles a layer's or a block's code, and takes that to be so for all
    modules that share this code, and for ever.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return
    if getattr(dynamo.config, "skip_nnmodule_hook_guards", False):
        dynamo.config.skip_nnmodule_hook_guards = False
        fresh = True
    if fresh:
        dynamo.reset()


def _shapes(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}
    for name, module in modules.items():
        shape = shape_of(module)
        if shape is not None:
            shapes[f"{name}.weight" if name else "weight"] = shape
    return shapes


def _place(match: Match, modules: Mapping[str, nn.Module]) -> tuple[nn.Module, str] | str:
    """The module whose forward is to be added to and the weight's name in there; or why there is none."""
    path, parameter = match.slot.module, match.slot.parameter
    module = modules.get(path)
    if module is None:
        return "the model has no such module"
    parent = modules.get(path.rpartition(".")[0]) if path else None
    if isinstance(parent, nn.MultiheadAttention) and parent._modules.get(path.rpartition(".")[2]) is module:
        module, parameter = parent, f"{path.rpartition('.')[2]}.{parameter}"
    kind = kind_of(module)
    if kind in (LINEAR, CONV, EMBEDDING) and parameter == "weight":
        sliced = match.slot.rows is not None or len(match.pieces) > 1
        if sliced and (kind == EMBEDDING or (kind == CONV and module.groups > 1)):
            return f"rows of a weight, in a {'grouped convolution' if kind == CONV else 'table of embeddings'}"
        return module, parameter
    if kind in (LINEAR, CONV) and parameter == "bias":
        return (module, parameter) if getattr(module, "bias", None) is not None else "the layer has no bias"
    # Anything else runs again with other weights, so these must be plain tensors, and the run short.
    owner, _, name = parameter.rpartition(".")
    weight = (module._modules[owner] if owner else module)._parameters.get(name)
    if kind not in (None, ATTENTION) or weight is None or not weight.is_floating_point():
        return f"live can't follow {parameter} of a {type(module).__name__}"
    if kind is None and module._modules:
        return f"{parameter} belongs to a {type(module).__name__} with modules of its own, and not to a layer"
    return module, parameter


def _part(control: Control, match: Match, module: nn.Module, parameter: str) -> Part:
    whole = match.slot.rows is None and len(match.pieces) == 1
    pieces = tuple(Piece(None if whole else start, weights) for start, weights in match.pieces)
    return Part(control, match.module, match.slot.module, parameter, kind_of(module), pieces)


def _refuse(report: Report, reasons: Mapping[str, str]) -> None:
    report.entries = [
        replace(entry, status=REFUSED, where="", reason=reasons[entry.module])
        if entry.module in reasons and entry.status == APPLIED
        else entry
        for entry in report.entries
    ]


def _hook(module: nn.Module, part: Part) -> bool:
    """Add ``part`` to the module's hook; whether it had none."""
    hook = hook_of(module)
    fresh = hook is None
    if fresh:
        hook = LiveHook(kind_of(module))
        module.register_forward_hook(hook, with_kwargs=True)
    if part.scales_input and not any(other.scales_input for other in hook.parts):
        module.register_forward_pre_hook(InputHook(hook), with_kwargs=True)
        fresh = True
    hook.parts = (*hook.parts, part)
    return fresh


def _unhook(module: nn.Module, part: Part) -> None:
    hook = hook_of(module)
    if hook is None:
        return
    hook.parts = tuple(other for other in hook.parts if other is not part)
    if not any(other.scales_input for other in hook.parts):
        _drop(module, InputHook, module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
    if not hook.parts:
        _drop(module, LiveHook, module._forward_hooks, module._forward_hooks_with_kwargs)


def _drop(module: nn.Module, kind: type, hooks: dict, with_kwargs: dict) -> None:
    """Take the hook of that class away, as its ``RemovableHandle`` would: a deep copy has none of its own."""
    for key in [key for key, hook in hooks.items() if isinstance(hook, kind)]:
        del hooks[key]
        with_kwargs.pop(key, None)
