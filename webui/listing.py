"""The adapter files of the host's model folders, the names that a prompt calls them by, and the file a name means."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from modules import hashes

from lokr_core.errors import LoKrError
from lokr_core.inspection import Outline

from . import settings

NOT_IN_A_TAG = re.compile(r"[<>:=\n\r\t]")
SHOWN = 12  # digits of a hash in names and infotext, as the host shows
_HASHED = re.compile(r"(.*?)\s*\(([0-9a-f]{8,64})\)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One adapter file.

    name: the file's, without folder and ending, unique: followed by the hash if several LoKr files share it,
    ``style(0a1b2c3d4e5f)``
    alias: what its metadata calls it (``ss_output_name``) if that means this file alone, else ``name``
    outline: what its header says, None if it cannot be read
    version: (modification time in ns, size in bytes), which tells it from another file that takes its place
    problem: why its header cannot be read, "" if it can
    """

    name: str
    path: Path
    alias: str
    outline: Outline | None
    version: tuple[int, int]
    problem: str = ""

    @property
    def is_lokr(self) -> bool:
        """False for other files of the same folders: ``find`` knows them too, so that reading one says what it is."""
        return self.outline is not None and self.outline.is_lokr

    @property
    def title(self) -> str:
        """What the adapter calls itself, for people."""
        return (self.outline and self.outline.title) or self.path.stem

    @property
    def tag_name(self) -> str:
        """The name that goes into a prompt, by the host's setting ``lora_preferred_name``."""
        return self.name if settings.prefers_filename() else self.alias

    @property
    def hash(self) -> str:
        """sha256 of the file behind its header, in hexadecimal digits, as kohya and the host's ``<lora:>`` take it.

        Read from the file once and kept in the host's cache; "" where the user has switched hashing off.
        """
        return hashes.sha256(str(self.path), self._cache_title, use_addnet_hash=True) or ""

    @property
    def content_hash(self) -> str:
        """``hash``, taken even if hashing is switched off: two files of one name need it."""
        if self.hash:
            return self.hash
        with self.path.open("rb") as file:
            return hashes.addnet_hash_safetensors(file)

    @property
    def shorthash(self) -> str:
        return self.hash[:SHOWN]

    @property
    def known_hash(self) -> str:
        """``hash`` if it has been taken before, else "": for lists, which should not read every file."""
        return hashes.sha256_from_cache(str(self.path), self._cache_title, use_addnet_hash=True) or ""

    @property
    def _cache_title(self) -> str:
        """With the version in it: the host's cache would take an older file of the same name for the one it knows."""
        return f"lokr/{self.path} {self.version}"


def stem_of(path: Path) -> str:
    """The file's name as a tag can spell it: ``:``, ``=`` and brackets of tags are ``_``."""
    return NOT_IN_A_TAG.sub("_", path.stem).strip()


def output_name(outline: Outline | None) -> str:
    """What the trainer was told to call the file."""
    return outline.metadata.get("ss_output_name", "").strip() if outline else ""


class UnknownName(LoKrError, LookupError):
    """No adapter, or no single one, has this name; ``near`` are names that come near it."""

    def __init__(self, name: str, near: Iterable[str], problem: str = "There is no LoKr of this name"):
        self.name, self.near = name, list(near)
        super().__init__(
            f"{problem}: {name!r}",
            found=f"near: {', '.join(self.near)}" if self.near else None,
            hint="pick it in the LoKr tab" if self.near else "put the file into models/LoKr and refresh the LoKr tab",
        )


class Listing:
    """The files as they were at one moment, and their names."""

    def __init__(self, files: Iterable[Entry]):
        files = list(files)
        self.lokr = _named([entry for entry in files if entry.is_lokr])
        self.others = [entry for entry in files if not entry.is_lokr]
        names = {entry.name for entry in self.lokr}
        self.broken = [entry for entry in self.others if entry.problem and entry.name not in names]
        self._by_name = [_index(self.lokr), _index(self.others)]

    def find(self, name: str) -> Entry:
        wanted = name.strip()
        for spelled in (wanted, wanted.removesuffix(".safetensors")):
            for index in self._by_name:
                found = index.get(spelled) or index.get(_folded(spelled))
                if found:
                    return self._one(name, found)
        hashed = _HASHED.fullmatch(wanted)
        if hashed:
            stem, digits = _folded(hashed.group(1)), hashed.group(2).lower()
            for entry in self.lokr:
                if stem in (_folded(stem_of(entry.path)), _folded(entry.alias)) and entry.hash.startswith(digits):
                    return entry
        raise UnknownName(name, self._near(wanted))

    def _one(self, name: str, found: list[Entry]) -> Entry:
        if len(found) > 1 and found[0].is_lokr:
            raise UnknownName(name, sorted({entry.name for entry in found}), "Several LoKr files have this name")
        return found[0]

    def _near(self, name: str) -> list[str]:
        """Names that contain ``name`` or are spelled like it, the most similar first."""
        folded = {_folded(known): known for entry in self.lokr for known in (entry.alias, entry.name)}
        wanted = _folded(name)
        near = difflib.get_close_matches(wanted, folded, n=3, cutoff=0.5)
        near += [other for other in folded if wanted and wanted in other]
        return list(dict.fromkeys(folded[other] for other in near))[:3]


def _named(files: list[Entry]) -> list[Entry]:
    """The files with names and aliases that mean one file each; a duplicate file is left out."""
    count = Counter(entry.name for entry in files)
    named = {}
    for entry in files:
        name = entry.name if count[entry.name] == 1 else f"{entry.name}({entry.content_hash[:SHOWN]})"
        named.setdefault(name, replace(entry, name=name))
    aliases = Counter(_folded(entry.alias) for entry in named.values())
    names = {_folded(entry.name): entry for entry in named.values()}
    for name, entry in named.items():
        alias = _folded(entry.alias)
        clear = aliases[alias] == 1 and names.get(alias, entry) is entry and not NOT_IN_A_TAG.search(entry.alias)
        if not clear or alias == "none":  # the host's <lora:None> means no network
            named[name] = replace(entry, alias=name)
    return list(named.values())


def _index(files: list[Entry]) -> dict[str, list[Entry]]:
    """Name -> the files that it means, as spelled and folded. Names as spelled come before folded ones, and names of
    files before aliases."""
    index: dict[str, list[Entry]] = {}
    for name_of in (
        lambda entry: entry.name,
        lambda entry: entry.alias,
        lambda entry: stem_of(entry.path),  # a name that several files share is found too, and reported
        lambda entry: output_name(entry.outline) or entry.name,
        lambda entry: _folded(entry.name),
        lambda entry: _folded(entry.alias),
    ):
        layer = defaultdict(list)
        for entry in files:
            layer[name_of(entry)].append(entry)
        for name, found in layer.items():
            index.setdefault(name, found)
    return index


def _folded(name: str) -> str:
    """``name`` without what people type differently: case, and Unicode's two spellings of é."""
    return unicodedata.normalize("NFC", name.strip()).casefold()
