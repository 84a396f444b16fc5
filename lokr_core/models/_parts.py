"""The models of a pipeline, and their modules by the names that files use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from .._layers import shape_of
from ..adapter import Adapter
from ..modules import checked_expert, expert_called
from ..names import FUSIONS

# diffusers' names of the models in a pipeline that adapters are trained for.
_PARTS = re.compile(r"(unet|transformer|prior|text_encoder)(_\d)?")
# Of a model with two experts, as diffusers names them.
_EXPERTS = {"high": "transformer", "low": "transformer_2"}


@dataclass(frozen=True)
class View:
    """A model as an engine sees it.

    modules: the modules by name, those of a pipeline behind the name of their part ("unet.", "text_encoder_2.")
    state: the tensors of a state dict; None: the modules' parameters
    expert: the one of two that was asked for, "" for none; notes: for the report, what was assumed
    fused: projection's name -> (name of the module that runs in its place, its first row there)
    """

    modules: Mapping[str, nn.Module]
    state: Mapping[str, Tensor] | None = None
    expert: str = ""
    notes: list[str] = field(default_factory=list)
    fused: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The parameters by name, a tied one under each of its names; or those of the state dict."""
        if self.state is not None:
            return self.state
        named = ((path, module._parameters) for path, module in self.modules.items())
        return {_join(path, name): p for path, own in named for name, p in own.items() if p is not None}

    def known(self, named: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """``tensors``, or others ``named`` so, without those of the modules that run in others' place."""
        instead = tuple(f"{module}." for module, _ in self.fused.values())
        named = self.tensors if named is None else named
        return {name: each for name, each in named.items() if not (instead and name.startswith(instead))}


def is_pipeline(model: object) -> bool:
    """Whether ``model`` is a pipeline: no module itself, with modules among its ``components``."""
    return not isinstance(model, (nn.Module, Mapping)) and isinstance(getattr(model, "components", None), Mapping)


def parts_of(model: Any) -> dict[str, nn.Module]:
    """The models of a pipeline that adapters may belong to, by name; {"": model} for a model.

    >>> class Pipeline:
    ...     components = {"scheduler": None, "transformer": nn.Linear(2, 2), "vae": nn.Linear(2, 2)}
    >>> list(parts_of(Pipeline()))
    ['transformer']
    """
    if not is_pipeline(model):
        return {"": model}
    parts = model.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module) and _PARTS.fullmatch(name)}


def view_of(model: Any, adapter: Adapter, expert: str = "", wrappers: bool = False) -> View:
    """What ``adapter`` may belong to in ``model``, a module, a pipeline or a state dict.

    expert: "high" or "low", of a pipeline with two transformers: the one that takes the adapter; "": the one that the
    adapter tells by its names or its file's name, else the first, as diffusers does

    wrappers: whether they are modules too, as in ``named_modules``: for a host's target, which has those names

    Else, where PEFT wraps a layer, the layer itself counts, under the wrapper's name. Raises LoKrValueError if
    ``expert`` is an unknown word.
    """
    if isinstance(model, Mapping):
        return View({}, {name: tensor for name, tensor in model.items() if isinstance(tensor, Tensor)}, expert)
    parts, notes = parts_of(model), []
    if all(name in parts for name in _EXPERTS.values()):
        expert = chosen = checked_expert(expert)
        if not chosen and not adapter.experts:
            chosen = expert_called(str(adapter.path or ""))
            told = f"its name says {chosen} noise" if chosen else "expert=low puts it on transformer_2"
            chosen = chosen or "high"
            notes.append(f"the file does not hold two experts: it acts on {_EXPERTS[chosen]} alone; {told}")
        parts = {name: part for name, part in parts.items() if not chosen or name not in _left_out(chosen)}
        if not adapter.experts:
            expert = ""
    if wrappers and not is_pipeline(model):
        modules = dict(model.named_modules(remove_duplicate=False))
    else:
        modules = {path: module for name, part in parts.items() for path, module in _walk(name, part)}
    return View(modules, None, expert, notes, _fused(modules))


def _left_out(expert: str) -> set[str]:
    return {name for which, name in _EXPERTS.items() if which != expert}


def _walk(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules below ``path`` as ``named_modules`` has them, without wrappers."""
    inner = _wrapped(module)
    if inner is not None:
        yield from _walk(path, inner)
        return
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(_join(path, name), child)


def _wrapped(module: nn.Module) -> nn.Module | None:
    """The layer that PEFT wraps, or the model that torch.compile wraps; None if ``module`` is no wrapper."""
    if hasattr(module, "merged_adapters"):
        return module._modules.get("base_layer")
    return module._modules.get("_orig_mod")


def _fused(modules: Mapping[str, nn.Module]) -> dict[str, tuple[str, int]]:
    """The projections in whose place others run since diffusers' ``fuse_qkv_projections``, see ``View.fused``."""
    found: dict[str, tuple[str, int]] = {}
    for path, module in modules.items():
        for whole, members in FUSIONS if runs_fused(module) else ():
            if all(isinstance(module._modules.get(name), nn.Module) for name in (whole, *members)):
                start = 0
                for name in members:
                    found[_join(path, name)] = (_join(path, whole), start)
                    start += (shape_of(modules[_join(path, name)]) or (0,))[0]
    return found


def runs_fused(module: nn.Module) -> bool:
    """Whether an attention's projections run fused.

    diffusers' older class keeps its mark when they are split again, so its processor tells.
    """
    if not vars(module).get("fused_projections"):  # of thousands of modules few have it, and `getattr` would be slow
        return False
    return hasattr(module, "_supports_qkv_fusion") or "Fused" in type(getattr(module, "processor", None)).__name__


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class Projections:
    """Whether attentions of a pipeline's ``parts`` run other projections than when this was made.

    diffusers' ``fuse_qkv_projections`` and its opposite have other layers run than those that adapters act on.
    ``changed`` is called when that is found, by ``check`` or, after ``watch``, before a part's forward.
    """

    def __init__(self, parts: Iterable[nn.Module], changed: Callable[[], None]):
        self._watches = [(part, _Watch(part, changed)) for part in parts]
        self._hooks: list[Any] = []

    def check(self) -> None:
        for part, watch in self._watches:
            watch(part)

    def watch(self) -> None:
        """Check before each forward, until ``release``."""
        if not self._hooks:
            self._hooks = [part.register_forward_pre_hook(watch) for part, watch in self._watches if watch.attentions]

    def release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _Watch:
    """A hook of one part."""

    def __init__(self, part: nn.Module, changed: Callable[[], None]):
        self.attentions = [module for module in part.modules() if hasattr(module, "fused_projections")]
        self._state, self._changed = self._now(), changed

    def _now(self) -> list[bool]:
        return [runs_fused(attention) for attention in self.attentions]

    def __call__(self, part: nn.Module, *_: object) -> None:
        now = self._now()
        if now != self._state:
            self._changed()
            self._state = now
