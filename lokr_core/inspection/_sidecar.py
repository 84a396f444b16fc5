"""What other programs have written beside an adapter file. Anyone may have written it: it is text, never followed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from .._files import json_object
from ._metadata import trigger_words

# Of Lora Manager, Civitai Helper and A1111; the first that says a thing counts.
ENDINGS = (".metadata.json", ".civitai.info", ".json")
MOST_BYTES = 4_000_000
_MAX_LENGTH = 4_000  # characters kept of one text
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Sidecar:
    """What the sidecars of a file say, each "", () or None if no sidecar says it.

    trigger_words: words of a prompt that activate the adapter; strength: the preferred one; read: the sidecars' names
    """

    title: str = ""
    trigger_words: tuple[str, ...] = ()
    notes: str = ""
    strength: float | None = None
    base_model: str = ""
    read: tuple[str, ...] = ()


def sidecars_of(path: str | os.PathLike) -> tuple[Path, ...]:
    """The sidecars beside an adapter file: ``.metadata.json``, ``.civitai.info`` and ``.json`` of the same name.

    A link that leads out of the file's folder is left out, and so is a file over 4 MB.
    """
    path = Path(path)
    return tuple(found for ending in ENDINGS if _is_beside(found := path.with_suffix(ending), path.parent))


def read_sidecars(path: str | os.PathLike) -> Sidecar:
    """What the sidecars of the adapter file at ``path`` say; of one that is malformed, nothing is taken.

    >>> import json, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     said = {"activation text": "oil, sks", "preferred weight": 0.7}
    ...     _ = Path(folder, "style.json").write_text(json.dumps(said))
    ...     found = read_sidecars(Path(folder, "style.safetensors"))
    >>> found.trigger_words, found.strength
    (('oil', 'sks'), 0.7)
    """
    said = [(found.name, _read(found)) for found in sidecars_of(path)]
    entries = [entry for _, entry in said if entry]
    return Sidecar(
        title=_first(_text(_inside(entry, "model", "name") or entry.get("model_name")) for entry in entries),
        trigger_words=_first(map(_words, entries)) or (),
        notes=_first(_text(entry.get("notes") or _plain(entry.get("description"))) for entry in entries),
        strength=next((found for entry in entries if (found := _strength(entry)) is not None), None),
        base_model=_first(
            _text(entry.get("base_model") or entry.get("baseModel") or entry.get("sd version")) for entry in entries
        ),
        read=tuple(name for name, entry in said if entry),
    )


def words_of(path: str | os.PathLike | None, metadata: Mapping[str, str]) -> list[str]:
    """The trigger words of a file: those of its sidecars, else those of its metadata."""
    beside = read_sidecars(path).trigger_words if path is not None else ()
    return list(beside) or trigger_words(metadata)


def _is_beside(path: Path, folder: Path) -> bool:
    try:
        status = path.stat()  # first: most files have no sidecar
        inside = os.path.realpath(folder) == os.path.dirname(os.path.realpath(path))
        return inside and stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES
    except (OSError, ValueError):
        return False


def _read(path: Path) -> dict:
    try:
        return json_object(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def _first(values):
    return next((value for value in values if value), "")


def _inside(entry: dict, *keys: str) -> object:
    """The value at a path of keys. Returns None if it ends early."""
    found: object = entry
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _text(value: object) -> str:
    return value.strip()[:_MAX_LENGTH] if isinstance(value, str) else ""


def _plain(html: object) -> str:
    """The text of HTML without its tags."""
    return " ".join(unescape(_TAG.sub(" ", _text(html))).split())


def _words(entry: dict) -> tuple[str, ...]:
    """The trigger words of one sidecar: a list of phrases, or a text with commas."""
    found = entry.get("activation text") or entry.get("trainedWords") or _inside(entry, "civitai", "trainedWords")
    phrases = found if isinstance(found, list) else [found]
    words = (word.strip() for phrase in phrases if isinstance(phrase, str) for word in phrase.split(","))
    return tuple(dict.fromkeys(word[:120] for word in words if word))[:100]


def _strength(entry: dict) -> float | None:
    """The preferred strength of one sidecar; 0 is how A1111 writes that there is none."""
    tips = entry.get("usage_tips")
    tips = json_object(tips) if isinstance(tips, str) else tips if isinstance(tips, dict) else {}
    for value in (entry.get("preferred weight"), tips.get("strength")):
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < abs(value) < 100:
            return float(value)
    return None
