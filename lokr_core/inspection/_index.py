"""What headers and sidecars of many files say, kept on disk, so that a list of 2,000 files shows at once."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ..errors import LoKrError
from ._base_models import base_model_spelled
from ._outline import outline
from ._sidecar import read_sidecars, sidecars_of

_TABLE = "briefs_1"  # another number where what is read of a file changes
_MOST_WORDS = 50


@dataclass(frozen=True)
class Brief:
    """One file of a list.

    kind: as of ``Outline``, "unreadable" for a file that cannot be read; problem: why not, "" for one that can
    base_model: in one spelling, "" if unknown; guessed: whether names and shapes tell it, and not the metadata
    title, trigger_words: of the sidecars, else of the metadata; strength: the preferred one of the sidecars
    """

    kind: str
    is_lokr: bool
    base_model: str
    guessed: bool
    title: str
    trigger_words: tuple[str, ...]
    strength: float | None
    problem: str


def brief(path: str | os.PathLike) -> Brief:
    """The brief of the file at ``path``: its header and its sidecars are read, no tensor is."""
    beside = read_sidecars(path)
    try:
        found = outline(path)
    except (LoKrError, OSError) as error:
        problem = error.problem if isinstance(error, LoKrError) else f"The file cannot be read: {error.strerror}"
        return Brief("unreadable", False, "", False, beside.title, beside.trigger_words, beside.strength, problem)
    return Brief(
        kind=found.kind,
        is_lokr=found.is_lokr,
        base_model=base_model_spelled(found.base_model or beside.base_model),
        guessed=found.guessed,
        title=beside.title or found.title,
        trigger_words=(beside.trigger_words or tuple(found.trigger_words))[:_MOST_WORDS],
        strength=beside.strength,
        problem="",
    )


class Index:
    """Briefs by path, kept in a file of SQLite, valid while size and times of the file and its sidecars are the same.

    database: the index's own file; one that is damaged is begun anew, and where none can be written, the index is kept
    in memory alone. Safe to use from several threads.

    >>> index = Index(":memory:")
    >>> index.known("/nowhere/style.safetensors") is None
    True
    """

    def __init__(self, database: str | os.PathLike):
        self._lock = threading.Lock()
        self._briefs: dict[str, tuple[str, Brief]] = {}
        self._database = _opened(database)
        for path, version, text in self._database.execute(f"SELECT path, version, brief FROM {_TABLE}"):
            fields = json.loads(text)
            self._briefs[path] = version, Brief(**{**fields, "trigger_words": tuple(fields["trigger_words"])})

    def known(self, path: str) -> Brief | None:
        """The brief of the file as it is now. Returns None if it has not been read since it changed."""
        version, found = self._briefs.get(path, ("", None))
        return found if found is not None and version == _version(path) else None

    def read(self, path: str) -> Brief:
        """The brief of the file as it is now, from the file if the index does not know it."""
        found = self.known(path)
        if found is None:
            version, found = _version(path), brief(path)
            self._briefs[path] = version, found
            self._write([(path, version, json.dumps(asdict(found)))])
        return found

    def forget(self, kept: Iterable[str]) -> None:
        """Forget all files but ``kept``."""
        gone = self._briefs.keys() - set(kept)
        for path in gone:
            self._briefs.pop(path, None)
        with self._lock, self._database:
            self._database.executemany(f"DELETE FROM {_TABLE} WHERE path = ?", [(path,) for path in gone])

    def _write(self, rows: list[tuple[str, str, str]]) -> None:
        try:
            with self._lock, self._database:
                self._database.executemany(f"REPLACE INTO {_TABLE} VALUES (?, ?, ?)", rows)
        except sqlite3.Error:  # a full or read-only disk: what is in memory still counts
            pass


def _version(path: str) -> str:
    """Sizes and times of a file and its sidecars, "" if the file is gone."""
    try:
        found = [os.stat(path), *(os.stat(beside) for beside in sidecars_of(path))]
    except OSError:
        return ""
    return " ".join(f"{status.st_size}-{status.st_mtime_ns}" for status in found)


def _opened(database: str | os.PathLike) -> sqlite3.Connection:
    """The database with its table, a fresh one if it is damaged, one in memory if it cannot be written."""
    for attempt in (database, database, ":memory:"):
        try:
            opened = sqlite3.connect(attempt, check_same_thread=False, timeout=5)
            opened.execute("PRAGMA synchronous = OFF")  # what a crash loses is read again
            with opened:
                opened.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE} (path TEXT PRIMARY KEY, version TEXT, brief TEXT)")
                opened.execute(f"SELECT path, version, brief FROM {_TABLE} LIMIT 1").fetchall()
            return opened
        except sqlite3.OperationalError:
            continue
        except sqlite3.DatabaseError:  # not a database
            opened.close()
            os.remove(database)
    raise AssertionError("a database in memory always opens")
