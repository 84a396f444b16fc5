"""The adapters on the host's model: what stays, what comes, what goes.

Live adapters are hooks that stay on the model while a tag names the same file, so a changed strength is a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lokr_core.adapter import Adapter
from lokr_core.formats import bundled_embeddings
from lokr_core.handle import Handle
from lokr_core.live import LiveHandle, attach
from lokr_core.matching import Report

from .host import AdapterFile, Host, HostModel
from .tags import MERGE, Request


@dataclass(frozen=True, eq=False)
class Use:
    """A tag and the file that it names, read."""

    request: Request
    entry: AdapterFile
    adapter: Adapter

    def factors(self, model: HostModel, percent: float = 0.0) -> Callable[[str], float]:
        """A function from a module of the model to its strength at ``percent`` of the run.

        Raises LoKrValueError for blocks that the model does not have. The prompt is encoded before the run, so the
        text encoders' strength has no window.
        """
        request = self.request
        of_block = request.blocks.over(model.unet_modules) if request.blocks.entries else None
        now = request.tag.unet * (1.0 if request.schedule is None else request.schedule.at(percent))

        def factor(module: str) -> float:
            if not model.is_unet(module):
                return request.tag.te
            return now if of_block is None else now * of_block(module)

        return factor


@dataclass(eq=False)
class Applied:
    """An adapter on the model, and the tag that it is for now. Its handle's strength stays 1: a tag gives the denoiser
    and the text encoders, which one handle changes, strengths of their own, so they are the handle's factors.

    take_back: takes the file's embeddings from the prompts again
    """

    use: Use
    handle: Handle
    take_back: Callable[[], None] = lambda: None

    @property
    def merged(self) -> bool:
        return not isinstance(self.handle, LiveHandle)

    def serves(self, use: Use) -> bool:
        """Whether it can stay for another tag."""
        return self.use.adapter is use.adapter and self.merged == (use.request.mode == MERGE)


class AppliedAdapters:
    """What is on one model, in the order of the tags.

    incomplete: called with the report of an adapter some of whose modules have no place
    failed: called in the ``except`` of an adapter that cannot be applied
    """

    def __init__(self, host: Host, incomplete: Callable[[Use, Report], None], failed: Callable[[Use, Exception], None]):
        self.host, self._incomplete, self._failed = host, incomplete, failed
        self.model: HostModel | None = None
        self._applied: list[Applied] = []

    def put_on(self, uses: list[Use], owner: object | None = None) -> None:
        """Have ``uses`` on the model in that order: what stays is kept, the rest removed."""
        model = self.host.model(owner)
        if self.model is not None and (model is None or model.owner is not self.model.owner):
            self.take_off()
        self.model = self.model or model
        if model is None:
            return
        staying = self._staying(uses)
        self._remove([applied for applied in self._applied if applied not in staying])
        self._applied = []
        for number, use in enumerate(uses):
            applied = staying[number] if number < len(staying) else None
            try:
                applied = self._apply(use) if applied is None else self._adjust(applied, use)
                self._lend(applied)
                self._applied.append(applied)
                if number >= len(staying) and not applied.handle.report.complete:
                    self._incomplete(use, applied.handle.report)
            except Exception as error:
                self._failed(use, error)
                if applied is not None:
                    self._remove([applied])

    def pause(self) -> None:
        """Disable the hooks until the next ``put_on``, and take back the words of embeddings. Merges stay."""
        for applied in self._applied:
            applied.take_back()
            if not applied.merged:
                applied.handle.enabled = False

    @property
    def scheduled(self) -> bool:
        return any(applied.use.request.schedule is not None for applied in self._applied)

    def step(self, percent: float) -> None:
        """Set the strengths that change over the run."""
        for applied in self._applied:
            if applied.use.request.schedule is not None:
                applied.handle.set_factors(applied.use.factors(self.model, percent))

    def take_off(self, weights_replaced: bool = False) -> None:
        """Leave the model as it was, and release it; ``weights_replaced``: what was merged into them is gone."""
        if weights_replaced:
            for applied in self._applied:
                applied.handle.forget()
                applied.take_back()
            self._applied = []
        self._remove(self._applied)
        self._applied, self.model = [], None

    @property
    def uses(self) -> list[Use]:
        """The tags that are in force."""
        return [applied.use for applied in self._applied]

    def report_of(self, adapter: Adapter) -> Report | None:
        """The report of an adapter that is on the model. Returns None for others."""
        return next((applied.handle.report for applied in self._applied if applied.use.adapter is adapter), None)

    def _staying(self, uses: list[Use]) -> list[Applied]:
        """The adapters on the model that serve the first of ``uses``.

        Updates are summed in the order in which they came, so the rounding is that of a fresh start only if that is the
        order of the tags.
        """
        left, staying = list(self._applied), []
        for use in uses:
            number = next((number for number, applied in enumerate(left) if applied.serves(use)), None)
            if number is None:
                break
            staying.append(left[number])
            left = left[number + 1 :]
        return staying

    def _apply(self, use: Use) -> Applied:
        model, factors = self.model, use.factors(self.model)
        if use.request.mode == MERGE:
            self.host.give_back_weights(model.root.modules())
            handle = self.host.merge(model, use.adapter, factors)
        else:
            weight_of = self.host.weight_of
            handle = attach(model.root, use.adapter, target=model.target, factors=factors, weight_of=weight_of)
        return Applied(use, handle)

    def _lend(self, applied: Applied) -> None:
        """Have prompts know the embeddings of the file until ``pause``."""
        applied.take_back()
        used, applied.take_back = self.host.lend_embeddings(self.model, bundled_embeddings(applied.use.adapter))
        applied.handle.report.hand_over(used)

    def _adjust(self, applied: Applied, use: Use) -> Applied:
        if not applied.merged:
            applied.handle.set_factors(use.factors(self.model))
            applied.handle.enabled = True
        elif not applied.use.request.as_strong_as(use.request):
            self.host.give_back_weights(self.model.root.modules())
            applied.handle.set_factors(use.factors(self.model))
        applied.use = use
        return applied

    def _remove(self, gone: list[Applied]) -> None:
        if any(applied.merged for applied in gone):
            self.host.give_back_weights(self.model.root.modules())
        for applied in gone:
            applied.handle.remove()
            applied.take_back()
