"""An adapter onto a MODEL and a CLIP: merged, as patches that ComfyUI adds to the weights, or live, by hooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from comfy.weight_adapter import WeightAdapterBase

from ..lokr_core.adapter import Adapter, LoKrWeights, check_strength
from ..lokr_core.errors import LoKrShapeError
from ..lokr_core.kronecker import Factor
from ..lokr_core.live import unsupported
from ..lokr_core.matching import Match, Report, Target
from .bridge import Plan, file_of, plan_of
from .embeddings import with_embeddings
from .live import Live
from .loaded import Loaded, remember
from .mode import LIVE, MERGE, How, choose


def apply_adapter(
    model: ModelPatcher | None,
    clip,
    adapter: Adapter,
    strength_model: float,
    strength_clip: float,
    how: How | None = None,
):
    """Clones of ``model`` and ``clip`` with ``adapter`` in force, and the report: (model, clip, report).

    Either may be None. A strength of 0 leaves its part as it is. Blocks and schedules act on the model only. Raises
    LoKrMatchError if nothing matches, LoKrValueError if ``how`` names blocks that the model does not have.
    """
    how = how or How(MERGE)
    parts: dict[str, _Part] = {}
    if model is not None:
        plan = plan_of(adapter, model.model, comfy.lora.model_lora_keys_unet, file_of(model))
        parts["model"] = _part(model, plan, strength_model, how)
    if clip is not None:
        plan = plan_of(adapter, clip.cond_stage_model, comfy.lora.model_lora_keys_clip)
        parts["clip"] = _part(clip, plan, strength_clip, replace(how, blocks=None, schedule=None))
    report = Report.merged(adapter, [part.report for part in parts.values()])
    tokenizer, used = with_embeddings(clip.tokenizer, adapter) if clip is not None and strength_clip else (None, ())
    report.hand_over(used)
    report.raise_if_nothing_matched()
    report.modes = {name: part.mode for name, part in parts.items()}
    for part in parts.values():
        if part.live is not None:
            part.live.listen(part.patcher)
            # A clone of an injected patcher inherits is_injected, which is not true of this injection.
            part.patcher.is_injected = False
            injection = PatcherInjection(inject=part.live.inject, eject=part.live.eject)
            part.patcher.set_injections(part.live.key, [injection])
        for patches, strength in part.patches:
            part.patcher.add_patches(patches, strength)
    model, clip = (parts[name].owner if name in parts else None for name in ("model", "clip"))
    if used:
        clip = clip.clone() if parts["clip"].patcher is None else clip
        clip.tokenizer = tokenizer
    return model, clip, report


@dataclass(frozen=True)
class _Part:
    """What is to be handed to ComfyUI for a MODEL or a CLIP.

    owner: the MODEL or CLIP to return; mode: its entry of ``Report.modes``; patcher: of ``owner``, a fresh clone, or
    None if nothing changes; patches: (ComfyUI's key -> patch, strength) pairs
    """

    owner: object
    report: Report
    mode: tuple[str, str]
    patcher: ModelPatcher | None = None
    patches: tuple[tuple[dict, float], ...] = ()
    live: Live | None = None


def _part(owner, plan: Plan, strength: float, how: How) -> _Part:
    """What the plan comes to for ``owner``, a MODEL or a CLIP."""
    strength, factor_of = check_strength(strength), _factors(plan.target, how)
    if not plan.matches and not plan.handed:
        return _Part(owner, plan.report, ("", ""))
    if strength == 0:
        return _Part(owner, plan.report, ("", "strength 0: not applied"))
    owner = owner.clone()
    patcher = owner if isinstance(owner, ModelPatcher) else owner.patcher
    mode, why = choose(how, patcher, plan)
    # What live mode does not support is merged all the same.
    refused = unsupported(patcher.model, plan.matches) if mode == LIVE else {match.module for match in plan.matches}
    merged = [match for match in plan.matches if match.module in refused]
    live = None
    if len(merged) < len(plan.matches):
        live = Live(plan.adapter, plan.target, strength, factor_of, how.schedule)
    if mode == LIVE and merged:
        why += f"; {len(merged)} modules are merged all the same, since live mode does not support their layers"
    if how.schedule is not None and plan.handed:
        why += "; the schedule does not reach what was handed to ComfyUI's own loader"
    layers = [*patches_of(merged, plan.target), plan.handed]
    patches = tuple((patches, strength * factor) for patches, factor in _by_factor(layers, factor_of))
    strengths = plan.strengths(strength, factor_of)
    remember(patcher, Loaded(plan.adapter, strengths, len(plan.handed), how.schedule is not None))
    return _Part(owner, plan.report, (mode, why), patcher, patches, live)


def _factors(target: Target, how: How) -> Callable[[str], float]:
    """A function from a module of the target to the factor that ``how.blocks`` gives it."""
    if how.blocks is None:
        return lambda module: 1.0
    return how.blocks.over(dict.fromkeys(name.rpartition(".")[0] for name in target.shapes))


def patches_of(matches: list[Match], target: Target) -> list[dict]:
    """ComfyUI's key -> patch; a second dict holds what a second module adds to the same rows, and so on."""
    layers: list[dict] = []
    for match in matches:
        for start, update in match.pieces:
            rows = (0, start, update.shape[0])
            key = match.weight if rows[2] == target.shapes[match.weight][0] else (match.weight, rows)
            layer = next((layer for layer in layers if key not in layer), None)
            if layer is None:
                layers.append(layer := {})
            layer[key] = LoKrPatch.of(match.module, update)
    return layers


def _by_factor(layers: list[dict], factor_of: Callable[[str], float]) -> Iterator[tuple[dict, float]]:
    """The patches as (patches of one factor, the factor). Nothing for a factor of 0 and for an empty dict, since
    ``add_patches`` makes ComfyUI load the model anew."""
    for layer in layers:
        by_factor: dict[float, dict] = defaultdict(dict)
        for key, patch in layer.items():
            name = key if isinstance(key, str) else key[0]
            by_factor[factor_of(name.rpartition(".")[0])][key] = patch
        yield from ((patches, factor) for factor, patches in by_factor.items() if factor)


class LoKrPatch(WeightAdapterBase):
    """One module's update, added into the copy of a weight that ComfyUI is about to use.

    ComfyUI moves a patch by rebuilding it as ``type(self)(self.loaded_keys, weights)`` with every tensor inside
    ``weights`` (nested tuples) replaced, so these two are all the state it has.
    """

    name = "lokr"

    def __init__(self, loaded_keys: set[str], weights: tuple):
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def of(cls, module: str, lokr: LoKrWeights) -> LoKrPatch:
        w1, w2 = ((f.whole, f.a, f.b, f.t) for f in (lokr.w1, lokr.w2))
        return cls({module}, (w1, w2, lokr.dora_scale, lokr.scaling, lokr.dora_norm))

    @property
    def lokr(self) -> LoKrWeights:
        w1, w2, dora_scale, scaling, dora_norm = self.weights
        return LoKrWeights(Factor(*w1), Factor(*w2), scaling, dora_scale, dora_norm=dora_norm)

    def calculate_weight(
        self,
        weight,
        key,
        strength,
        strength_model,
        offset,
        function,
        intermediate_dtype=torch.float32,
        original_weight=None,
    ):
        """ComfyUI's call: ``weight`` is its own copy (or the slice of it that ``offset`` names), changed in place."""
        order = _row_order(function, weight.shape[0])
        view = weight.unsqueeze(1) if weight.ndim == 1 else weight  # a bias or a norm: updates have two axes
        if order is None:
            self.lokr.add_to_(view, strength)
            return weight
        order = order.to(weight.device)
        own = torch.empty_like(view)
        own[order] = view
        view.copy_(self.lokr.add_to_(own, strength)[order])
        return weight


def _row_order(function: Callable, rows: int) -> torch.Tensor | None:
    """For each row of the host's weight, the row of the update that it takes; None if all stay in place.

    A key of ComfyUI's may carry a function that brings an update into the order of its own weight, as for the halves
    of ``norm_out.linear``. Applied to the numbers of the rows, it shows where each row goes.
    """
    numbers = torch.arange(rows)
    order = function(numbers.unsqueeze(1)).flatten()
    if torch.equal(order, numbers):
        return None
    if not torch.equal(order.sort().values, numbers):
        raise LoKrShapeError("ComfyUI maps this weight by more than an order of rows", found=function)
    return order
