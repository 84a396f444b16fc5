"""The list of adapter files for the page: names at once, what headers and sidecars say as soon as it is read."""

from __future__ import annotations

import os
import threading

import folder_paths

from ..lokr_core.errors import LoKrError
from ..lokr_core.inspection import Brief, Index, base_model_spellings
from .files import adapter_names, adapter_path, fingerprint_of, is_plain_file, preview_path, version

_LINK = Brief("unreadable", False, "", False, "", (), None, "This is a link to a file that is not a .safetensors")
PATIENCE = 0.3  # seconds that a request waits for files that are being read


class Listing:
    """The adapter files, and a thread that reads those that the index does not know.

    database: the index's file
    """

    def __init__(self, database: str):
        self._index = Index(database)
        self._read: list[str] = []  # names in the order in which they were read
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._idle = threading.Event()
        self._idle.set()

    def answer(self, since: int | None) -> dict:
        """What the page is sent: {"adapters", "reading": how many are still to be read, "position"}.

        since: the position of an earlier answer; then the adapters that were read after it, else all
        """
        if since is None:
            self._start([name for name in adapter_names() if self._known(name) is None])
        self._idle.wait(PATIENCE)
        with self._lock:
            position, reading = len(self._read), len(self._waiting)
            names = adapter_names() if since is None else self._read[max(0, since) :]
        folders: dict[str, frozenset[str]] = {}
        entries = [entry for name in names if (entry := self._entry(name, folders))]
        return {"adapters": entries, "reading": reading, "position": position}

    def _known(self, name: str) -> Brief | None:
        try:
            path = adapter_path(name)
        except LoKrError:
            return None
        return self._index.known(path) if is_plain_file(path) else _LINK

    def _start(self, names: list[str]) -> None:
        """Read these files, in a thread of its own unless one is at work."""
        with self._lock:
            waiting = set(self._waiting)
            self._waiting += [name for name in names if name not in waiting]
            if not self._waiting or not self._idle.is_set():
                return
            self._idle.clear()
        threading.Thread(target=self._work, name="lokr-listing", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._idle.set()
                    return
                name = self._waiting[0]
            try:
                path = adapter_path(name)
                if is_plain_file(path):
                    self._index.read(path)
            except (LoKrError, OSError):  # deleted since it was listed
                pass
            with self._lock:
                self._waiting.remove(name)
                self._read.append(name)

    def _entry(self, name: str, folders: dict[str, frozenset[str]]) -> dict | None:
        """A file as the page shows it; ``folders``: the names in the folders that were looked into before."""
        try:
            path, mtime_ns, size = version(name)
        except (LoKrError, OSError):  # deleted since it was listed
            return None
        folder = os.path.dirname(path)
        if folder not in folders:
            folders[folder] = frozenset(os.listdir(folder))
        entry = {
            "name": name,
            "size": size,
            "mtime": mtime_ns / 1e9,
            "has_preview": preview_path(path, folders[folder]) is not None,
            "fingerprint": fingerprint_of(path, mtime_ns, size),
        }
        brief = self._index.known(path) if is_plain_file(path) else _LINK
        return entry if brief is None else {**entry, **_shown(brief)}


def _shown(brief: Brief) -> dict:
    return {
        "kind": brief.kind,
        "is_lokr": brief.is_lokr,
        "base_model": brief.base_model,
        "guessed": brief.guessed,
        "also": " ".join(base_model_spellings(brief.base_model)),
        "title": brief.title,
        "trigger_words": brief.trigger_words,
        "strength": brief.strength,
        "problem": brief.problem,
    }


def database_path() -> str:
    """Where the index is kept: beside ComfyUI's users, in memory where that cannot be written."""
    folder = folder_paths.get_user_directory()
    return os.path.join(folder, "lokr_index.sqlite") if os.access(folder, os.W_OK) else ":memory:"
