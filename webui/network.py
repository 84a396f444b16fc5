"""The extra network ``lokr``: from the tags of a run to adapters on the host's model, and off again.

A run without tags takes everything off. What differs between hosts comes through ``Host``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from lokr_core.adapter import Adapter
from lokr_core.errors import LoKrError
from lokr_core.formats import load_adapter
from lokr_core.matching import Report, resolve

from .applied import AppliedAdapters, Use
from .host import AdapterFile, Host
from .tags import request_of


class FileVersion(str):
    """The file's version, appended to the tag so that the host's prompt cache misses when the file changes."""


class LoKrNetwork:
    """The host's ``ExtraNetwork``, without its base class: that is ``name``, ``activate`` and ``deactivate``.

    find: name -> file, or UnknownName; default_mode: the user's; note: writes the infotext, of the tags that were in
    force on any model of the run
    """

    name = "lokr"

    def __init__(
        self,
        host: Host,
        find: Callable[[str], AdapterFile],
        default_mode: Callable[[], str],
        note: Callable[[object, Iterable[Use]], None],
    ):
        self.host, self._find, self._default_mode, self._note = host, find, default_mode, note
        self._on_model = AppliedAdapters(host, self._say_incomplete, self._say_failed)
        self._uses: list[Use] = []
        self._used: list[Use] = []
        self._run: object | None = None

    # What the host calls.

    def activate(self, p, params_list) -> None:
        """Put what ``params_list`` names in force, and nothing else; report a tag that cannot be applied."""
        self._run = p
        self._uses = [use for params in params_list if (use := self._read(params)) is not None]
        self._used = []
        self._put_on()

    def deactivate(self, p) -> None:
        """The run is over. Hooks are disabled and kept for the next."""
        self._run = None
        self._on_model.pause()

    def step(self, params) -> None:
        """Before the denoiser runs: strengths that change over the run."""
        if self._on_model.scheduled:
            self._on_model.step(self.host.percent(params))

    def model_loaded(self, owner) -> None:
        """Weights have been loaded into ``owner``, which may be the object of the model before."""
        if self._on_model.model is not None:
            self._on_model.take_off(weights_replaced=owner is self._on_model.model.owner)
        if self._run is not None:  # a refiner, or hires fix with a checkpoint of its own
            self._put_on(owner)

    def model_taken(self, owner) -> None:
        """A model that was in memory is in use again; within a run it takes the adapters over."""
        if self._run is not None:
            self._put_on(owner)

    def model_gone(self) -> None:
        """The host releases the model in use before it loads another; so do we, or memory would hold both."""
        self._on_model.take_off()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """The host activates and uses a model for itself; a run in progress is as before when the block ends."""
        run, uses, used = self._run, self._uses, self._used
        try:
            yield
        finally:
            self._run, self._uses, self._used = run, uses, used
            if run is not None:
                self._put_on()

    def close(self) -> None:
        """Leave nothing on the model."""
        self._run, self._uses, self._used = None, [], []
        self._on_model.take_off()

    def report(self, entry: AdapterFile) -> Report | None:
        """What becomes of each module of a file on the loaded model. Returns None while no model is loaded.

        Raises LoKrError if the file cannot be read.
        """
        model = self._on_model.model or self.host.model()
        if model is None:
            return None
        adapter = _adapter(entry)
        return self._on_model.report_of(adapter) or resolve(adapter, model.target)[1]

    def _put_on(self, owner: object | None = None) -> None:
        self._on_model.put_on(self._uses, owner)
        self._used += [use for use in self._on_model.uses if use not in self._used]
        self._note(self._run, self._used)

    # From tags to files.

    def _read(self, params) -> Use | None:
        items = [item for item in params.items if not isinstance(item, FileVersion)]
        version, text = "none", f"<lokr:{':'.join(map(str, items))}>"
        try:
            request = request_of(items, self._default_mode())
            entry = self._find(request.tag.name)
            version = str(entry.version)
            return Use(request, entry, _adapter(entry, request.tag.expert))
        except LoKrError as error:
            self._tell(f"LoKr {text}: {_sentence(error)}")
            return None
        finally:
            params.items = [*items, FileVersion(version)]

    # To the user.

    def _say_incomplete(self, use: Use, report: Report) -> None:
        why = [f"{why.count} × {why.reason}, such as {why.examples[0]}" for why in report.reasons(1)]
        self._tell(f"LoKr {use.request.tag.text}: {'; '.join([report.headline, *report.notes, *why])}")

    def _say_failed(self, use: Use, error: Exception) -> None:
        """In the ``except`` that caught ``error``. The picture is made all the same."""
        if isinstance(error, LoKrError):
            self._tell(f"LoKr {use.request.tag.text}: {_sentence(error)}")
        else:
            self.host.trouble(f"LoKr {use.request.tag.text}")
            self._tell(f"LoKr {use.request.tag.text} failed: {error}; the console says more")

    def _tell(self, text: str) -> None:
        self.host.tell(self._run, text)


@lru_cache(maxsize=4)
def _read_file(path: Path, version: tuple[int, int], expert: str) -> Adapter:
    return load_adapter(path, expert)


def _adapter(entry: AdapterFile, expert: str = "") -> Adapter:
    """The file's adapter, read again only after the file has changed; ``expert``: see ``load_adapter``.

    Raises LoKrError.
    """
    try:
        return _read_file(entry.path, entry.version, expert)
    except LoKrError as error:
        if entry.outline is not None and not entry.is_lokr:
            error.hint = f"for a file that is not LoKr use <lora:{entry.name}:1>"
        raise


def _sentence(error: LoKrError) -> str:
    """An error in one line, without the folders of the user's machine."""
    parts = [error.problem]
    parts += [f"in {Path(str(error.file)).name}"] if error.file else []
    for word, value in (("module", error.module), ("expected", error.expected), ("found", error.found)):
        parts += [f"{word}: {value}"] if value is not None else []
    return "; ".join([*parts, error.hint] if error.hint else parts)


_registered: LoKrNetwork | None = None


def register(network: LoKrNetwork) -> LoKrNetwork:
    """Make ``network`` the one that ``report`` asks."""
    global _registered
    _registered = network
    return network


def report(entry: AdapterFile) -> Report | None:
    """``LoKrNetwork.report`` of the registered network. Returns None if none is registered."""
    return None if _registered is None else _registered.report(entry)
