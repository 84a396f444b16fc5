"""Live application in ComfyUI: lokr_core's hooks on the model's layers, enabled while a patcher is in force.

ComfyUI calls ``inject`` when a patcher's model is about to be used and ``eject`` when another patcher of the same model
is, and many times between. So the hooks stay on the model, disabled, in a few *seats*; an injection takes a seat, sets
its strength and enables it. A changed strength on a node is a new patcher that takes the seat the old one left: nothing
is attached, resolved or moved again.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..lokr_core.adapter import Adapter
from ..lokr_core.live import LiveHandle, attach, dequantized
from ..lokr_core.matching import Target
from ..lokr_core.strengths import NOISE, Schedule, noise_percent, step_percent

KEPT = 4
"""Idle seats that are kept, over all models: as many as adapters are kept in memory."""

_numbers = itertools.count()


@dataclass(eq=False)
class Seat:
    """A handle on a model.

    taken: whether an injection has it now; used: when it was used last
    patches: the id of ComfyUI's patches at that time
    """

    adapter: Adapter
    handle: LiveHandle
    taken: bool = False
    used: int = 0
    patches: object = None


# A seat holds the model's layers but not the model, so it goes when the model does.
_seats: WeakKeyDictionary[torch.nn.Module, list[Seat]] = WeakKeyDictionary()


def seat_for(model: torch.nn.Module, adapter: Adapter, target: Target) -> Seat:
    """An idle seat of ``adapter`` on ``model``, attached now if there is none."""
    seats = _seats.setdefault(model, [])
    seat = next((seat for seat in seats if seat.adapter is adapter and not seat.taken), None)
    if seat is None:
        handle = attach(model, adapter, 0.0, target=target, weight_of=_effective_weight)
        handle.enabled = False
        seats.append(seat := Seat(adapter, handle))
    seat.used = next(_numbers)
    _trim()
    return seat


def _trim() -> None:
    idle = [(seat.used, seats, seat) for seats in _seats.values() for seat in seats if not seat.taken]
    for _, seats, seat in sorted(idle, key=lambda entry: entry[0])[:-KEPT]:
        seat.handle.remove()
        seats.remove(seat)


def _effective_weight(module: torch.nn.Module) -> torch.Tensor | None:
    """A layer's weight as ComfyUI is about to use it, for DoRA. Returns None if it is the stored weight.

    An offloaded layer's patches are functions that ComfyUI calls while it casts the weight.
    """
    unpack = getattr(module, "get_weight", None)  # ComfyUI-GGUF's layers
    if unpack is not None:
        return unpack(module.weight, torch.float32)
    offloaded = [getattr(module, "weight_lowvram_function", None), *(getattr(module, "weight_function", None) or ())]
    functions = [function for function in offloaded if function is not None]
    if not functions:
        return None
    weight = dequantized(module.weight).detach().to(torch.float32, copy=True)
    for function in functions:
        weight = function(weight)
    return weight


class Live:
    """One application of an adapter to a model, by one node: the state of an injection, shared by the patcher's clones.

    factor_of: a function from a module of the model to its own factor
    schedule: if given, the strength is set before every call of the model
    """

    def __init__(
        self,
        adapter: Adapter,
        target: Target,
        strength: float,
        factor_of: Callable[[str], float],
        schedule: Schedule | None = None,
    ):
        self.adapter, self.target, self.strength = adapter, target, strength
        self.factor_of, self.schedule = factor_of, schedule
        self.key = f"lokr-{next(_numbers)}"
        # More than one model where ComfyUI copied it for further devices.
        self.seats: WeakKeyDictionary[torch.nn.Module, Seat] = WeakKeyDictionary()
        self.finalizers: WeakKeyDictionary[torch.nn.Module, weakref.finalize] = WeakKeyDictionary()

    def listen(self, patcher: ModelPatcher) -> None:
        """Have ``patcher``, a fresh clone, report when it is unloaded and, with a schedule, when the model runs."""
        patcher.add_callback_with_key(CallbacksMP.ON_DETACH, self.key, self.on_detach)
        if self.schedule is not None:
            patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, self.key, self.apply_model)
            if self.schedule.splits:
                patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, self.key, each_prompt_alone)

    def inject(self, patcher: ModelPatcher) -> None:
        model = patcher.model
        seat = self.seats.get(model)
        if seat is None:
            seat = self.seats[model] = seat_for(model, self.adapter, self.target)
            seat.taken = True
            _release_idle(model)
        if seat.patches != patcher.patches_uuid:
            # An offloaded weight's patches change without a sign at the weight, and DoRA's norms with them.
            if seat.patches is not None and seat.handle.needs_base:
                seat.handle.release()
            seat.patches = patcher.patches_uuid
        seat.handle.set_factors(self.factor_of)
        seat.handle.strength = self.strength if self.schedule is None else 0.0
        seat.handle.enabled = True
        # ComfyUI may drop a patcher without calling eject; the finalizer then frees the seat.
        self._forget(model)
        self.finalizers[model] = weakref.finalize(patcher, _leave, self, weakref.ref(model))
        self.finalizers[model].atexit = False

    def eject(self, patcher: ModelPatcher) -> None:
        self.leave(patcher.model)

    def leave(self, model: torch.nn.Module) -> None:
        """Disable the seat and free it."""
        self._forget(model)
        seat = self.seats.pop(model, None)
        if seat is not None:
            seat.handle.enabled, seat.taken, seat.used = False, False, next(_numbers)
            _trim()

    def _forget(self, model: torch.nn.Module) -> None:
        finalizer = self.finalizers.pop(model, None)
        if finalizer is not None:
            finalizer.detach()

    def on_detach(self, patcher: ModelPatcher, unpatch_all: bool = True) -> None:
        """ComfyUI unloads the model: release the factors on its device too."""
        if unpatch_all:
            for seat in _seats.get(patcher.model, ()):
                seat.handle.release()

    def apply_model(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **arguments):
        """Wraps ComfyUI's call of the model: set the strength for this step."""
        seat = self.seats.get(executor.class_obj)
        if seat is not None:
            seat.handle.strength = self.strength * self.factor_now(executor.class_obj, t, transformer_options)
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **arguments)

    def factor_now(self, model, t: torch.Tensor, transformer_options: dict) -> float:
        """The schedule's factor at the noise level of this call."""
        schedule = self.schedule
        sigma = float(transformer_options.get("sigmas", t).flatten()[0])
        sigmas = transformer_options.get("sample_sigmas")
        if schedule.by == NOISE or sigmas is None:
            percent = noise_percent(sigma, model.model_sampling.percent_to_sigma)
        else:
            percent = step_percent(sigma, sigmas.tolist())
        factor = schedule.at(percent)
        if schedule.splits:
            factor *= schedule.uncond if set(transformer_options.get("cond_or_uncond", ())) == {1} else schedule.cond
        return factor


def _leave(live: Live, model: weakref.ref) -> None:
    model = model()
    if model is not None:
        live.leave(model)


def each_prompt_alone(executor, model, conds, x_in, timestep, model_options):
    """Wraps ComfyUI's batch of prompts: run the model once for each, so that each can have its own strength."""
    if sum(cond is not None for cond in conds) < 2:
        return executor(model, conds, x_in, timestep, model_options)
    out = []
    for number, cond in enumerate(conds):
        alone = [cond if other == number else None for other in range(len(conds))]
        out.append(executor(model, alone, x_in, timestep, model_options)[number])
    return out


def _release_idle(model: torch.nn.Module) -> None:
    """Release the device memory of the adapters that are not in use."""
    for seat in _seats.get(model, ()):
        if not seat.taken:
            seat.handle.release()
