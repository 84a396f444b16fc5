"""The extra network ``lokr``: from the tags of a run to adapters on the host's model, and off again.

Live adapters are hooks that stay on the model while a tag names the same file, so a changed strength is a number. A run
without tags takes everything off. What is host's own comes through ``Host``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lokr_core import Adapter, LiveHandle, LoKrError, MergeHandle, Report, attach, load_adapter, resolve

from .host import Host, HostModel
from .tags import MERGE, Request, request_of

if TYPE_CHECKING:
    from .library import Entry

__all__ = ["LoKrNetwork", "register", "report"]


@dataclass(frozen=True, eq=False)
class Use:
    """A tag and the file that it names, read."""

    request: Request
    entry: Entry
    adapter: Adapter

    def factors(self, model: HostModel, percent: float = 0.0) -> Callable[[str], float]:
        """The strength of each of the model's modules at ``percent`` of the run.

        Raises LoKrValueError for blocks that the model has not. The text is encoded before the run, so the text
        encoders' strength has no window.
        """
        request = self.request
        of_block = request.blocks.over(model.unet_modules) if request.blocks.entries else None
        now = request.unet * (1.0 if request.schedule is None else request.schedule.at(percent))

        def factor(module: str) -> float:
            if not model.is_unet(module):
                return request.te
            return now if of_block is None else now * of_block(module)

        return factor


@dataclass(eq=False)
class Applied:
    """An adapter on the model, and the tag that it is for now."""

    use: Use
    handle: LiveHandle | MergeHandle

    @property
    def merged(self) -> bool:
        return not isinstance(self.handle, LiveHandle)

    def serves(self, use: Use) -> bool:
        return self.use.adapter is use.adapter and self.merged == (use.request.mode == MERGE)


class FileVersion(str):
    """Which file a tag meant, as a further item of the tag: the host keeps encoded prompts by their tags' items."""


class LoKrNetwork:
    """The host's ``ExtraNetwork``, without its base class: that is ``name``, ``activate`` and ``deactivate``.

    find: the file that a name means, or UnknownName; default_mode: the user's; note: writes the infotext
    """

    name = "lokr"

    def __init__(
        self,
        host: Host,
        find: Callable[[str], Entry],
        default_mode: Callable[[], str],
        note: Callable[[object, Iterable[tuple[str, Entry]]], None],
    ):
        self.host, self._find, self._default_mode, self._note = host, find, default_mode, note
        self._model: HostModel | None = None
        self._applied: list[Applied] = []
        self._uses: list[Use] = []
        self._run: object | None = None

    # What the host calls.

    def activate(self, p, params_list) -> None:
        """What ``params_list`` names is in force from now on, and nothing else; a tag that can't be is told about."""
        self._run = p
        self._uses = [use for params in params_list if (use := self._read(params)) is not None]
        self._put_on()
        self._note(p, [(use.request.name, use.entry) for use in self._uses])

    def deactivate(self, p) -> None:
        """The run is over. Hooks are switched off and kept for the next."""
        self._run = None
        for applied in self._applied:
            if not applied.merged:
                applied.handle.enabled = False

    def step(self, params) -> None:
        """Before the denoiser runs: strengths that change over the run."""
        scheduled = [applied for applied in self._applied if applied.use.request.schedule is not None]
        if scheduled:
            percent = self.host.percent(params)
            for applied in scheduled:
                applied.handle.set_strengths(applied.use.factors(self._model, percent))

    def model_loaded(self, owner) -> None:
        """Weights have been loaded into ``owner``, which may be the object of the model before."""
        if self._model is not None:
            if owner is self._model.owner:
                for applied in self._applied:
                    if applied.merged:
                        applied.handle.forget()  # those weights are gone
                    else:
                        applied.handle.remove()
                self._applied = []
            self._take_off()
        if self._run is not None:  # a refiner, or hires fix with a checkpoint of its own
            self._put_on(owner)

    def model_taken(self, owner) -> None:
        """A model that was in memory is in use again; within a run it takes the adapters over."""
        if self._run is not None:
            self._put_on(owner)

    def model_gone(self) -> None:
        """The host lets go of the model in use before it loads another, and so do we, or memory would hold both."""
        self._take_off()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """The host activates and uses a model for itself; a run that is on goes on after that as it was."""
        run, uses = self._run, self._uses
        try:
            yield
        finally:
            self._run, self._uses = run, uses
            if run is not None:
                self._put_on()

    def close(self) -> None:
        """Leave nothing on the model."""
        self._run, self._uses = None, []
        self._take_off()

    def report(self, entry: Entry) -> Report | None:
        """What becomes of each module of a file on the loaded model; None while none is loaded.

        Raises LoKrError for a file that can't be read.
        """
        model = self._model or self.host.model()
        if model is None:
            return None
        adapter = _adapter(entry)
        on_it = next((applied for applied in self._applied if applied.use.adapter is adapter), None)
        return on_it.handle.report if on_it else resolve(adapter, model.target)[1]

    # From tags to files.

    def _read(self, params) -> Use | None:
        items = [item for item in params.items if not isinstance(item, FileVersion)]
        version, text = "none", f"<lokr:{':'.join(map(str, items))}>"
        try:
            request = request_of(items, self._default_mode())
            entry = self._find(request.name)
            version = str(entry.version)
            return Use(request, entry, _adapter(entry))
        except LoKrError as error:
            self._tell(f"LoKr {text}: {_sentence(error)}")
            return None
        finally:
            params.items = [*items, FileVersion(version)]

    # From files to the model.

    def _put_on(self, owner: object | None = None) -> None:
        """Have on the model what ``_uses`` says, in that order: what stays is kept, the rest taken off."""
        model = self.host.model(owner)
        if self._model is not None and (model is None or model.owner is not self._model.owner):
            self._take_off()
        self._model = self._model or model
        if model is None:
            return
        staying = self._staying()
        self._remove([applied for applied in self._applied if applied not in staying])
        self._applied = []
        for number, use in enumerate(self._uses):
            applied = staying[number] if number < len(staying) else None
            try:
                applied = self._apply(use) if applied is None else self._adjust(applied, use)
                self._applied.append(applied)
            except Exception as error:
                self._say_why(use, error)
                if applied is not None:
                    self._remove([applied])

    def _staying(self) -> list[Applied]:
        """Those of the adapters on the model that serve the first tags.

        Updates are summed in the order in which they came, so rounding is a fresh start's only where that is the order
        of the tags.
        """
        left, staying = list(self._applied), []
        for use in self._uses:
            number = next((number for number, applied in enumerate(left) if applied.serves(use)), None)
            if number is None:
                break
            staying.append(left[number])
            left = left[number + 1 :]
        return staying

    def _apply(self, use: Use) -> Applied:
        model, factors = self._model, use.factors(self._model)
        if use.request.mode == MERGE:
            self.host.give_back_weights(model.root.modules())
            handle = self.host.merge(model, use.adapter, factors)
        else:
            handle = attach(model.root, use.adapter, target=model.target, weight_of=self.host.weight_of)
            handle.set_strengths(factors)
        if not handle.report.complete:
            self._tell(f"LoKr {use.request.text}: {'; '.join([handle.report.headline, *handle.report.notes])}")
        return Applied(use, handle)

    def _adjust(self, applied: Applied, use: Use) -> Applied:
        if not applied.merged:
            applied.handle.set_strengths(use.factors(self._model))
            applied.handle.enabled = True
        elif not applied.use.request.as_strong_as(use.request):
            self.host.give_back_weights(self._model.root.modules())
            applied.handle.set_strengths(use.factors(self._model))
        applied.use = use
        return applied

    def _remove(self, gone: list[Applied]) -> None:
        if any(applied.merged for applied in gone):
            self.host.give_back_weights(self._model.root.modules())
        for applied in gone:
            applied.handle.remove()

    def _take_off(self) -> None:
        """Leave the model as it was, and let go of it."""
        self._remove(self._applied)
        self._applied, self._model = [], None

    def _say_why(self, use: Use, error: Exception) -> None:
        """To the user, in the ``except`` that caught ``error``. The picture is made all the same."""
        if isinstance(error, LoKrError):
            self._tell(f"LoKr {use.request.text}: {_sentence(error)}")
        else:
            self.host.trouble(f"LoKr {use.request.text}")
            self._tell(f"LoKr {use.request.text} failed: {error}; the console says more")

    def _tell(self, text: str) -> None:
        self.host.tell(self._run, text)


@lru_cache(maxsize=4)
def _read_file(path: Path, version: tuple[int, int]) -> Adapter:
    return load_adapter(path)


def _adapter(entry: Entry) -> Adapter:
    """The file's adapter, read again only after the file has changed. Raises LoKrError."""
    try:
        return _read_file(entry.path, entry.version)
    except LoKrError as error:
        if entry.outline is not None and not entry.is_lokr:
            error.hint = f"for what is no LoKr there is <lora:{entry.name}:1>"
        raise


def _sentence(error: LoKrError) -> str:
    """An error in one line, without the folders of the user's machine."""
    said = [error.problem]
    said += [f"in {Path(str(error.file)).name}"] if error.file else []
    for word, value in (("module", error.module), ("expected", error.expected), ("found", error.found)):
        said += [f"{word}: {value}"] if value is not None else []
    return "; ".join([*said, error.hint] if error.hint else said)


_registered: LoKrNetwork | None = None


def register(network: LoKrNetwork) -> LoKrNetwork:
    """Make ``network`` the one that ``report`` asks."""
    global _registered
    _registered = network
    return network


def report(entry: Entry) -> Report | None:
    """``LoKrNetwork.report`` of the network that is registered; None where none is."""
    return None if _registered is None else _registered.report(entry)
