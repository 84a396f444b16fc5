"""The adapter files in the host's model folders, and the names that a prompt calls them by.

``entries()`` lists the LoKr files as they are on disk now; ``find(name)`` is the one that a tag means. Headers alone
are read, each again only after its file has changed.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from modules import cache, errors, hashes

from lokr_core import LoKrError
from lokr_core.inspection import Outline, outline

from . import settings

__all__ = ["Entry", "UnknownName", "entries", "find", "find_hashed", "folder_of", "refresh"]

_HASHED = re.compile(r"(.*?)\s*\(([0-9a-f]{8,64})\)", re.IGNORECASE | re.DOTALL)
_NOT_IN_A_TAG = re.compile(r"[<>:=\n\r\t]")
_SHOWN = 12  # digits of a hash that names and infotext show, as the host's

_listing: Listing | None = None


class UnknownName(LoKrError, LookupError):
    """No adapter, or no single one, has this name; ``near`` are names that come near it."""

    def __init__(self, name: str, near: Iterable[str], problem: str = "There is no LoKr of this name"):
        self.name, self.near = name, list(near)
        super().__init__(
            f"{problem}: {name!r}",
            found=f"near: {', '.join(self.near)}" if self.near else None,
            hint="pick it in the LoKr tab" if self.near else "put the file into models/LoKr and refresh the LoKr tab",
        )


@dataclass(frozen=True)
class Entry:
    """One adapter file.

    ``name`` is the file's, without folder and ending, and with the hash behind it where several LoKr files share it:
    ``style(0a1b2c3d4e5f)``; no other LoKr has it. ``alias`` is what its metadata calls it (``ss_output_name``) where
    that means this file alone, else ``name``. ``outline`` is what its header says, None where that cannot be read.
    ``version`` (modification time in ns, size in bytes) tells it from another file that takes its place.
    """

    name: str
    path: Path
    alias: str
    outline: Outline | None
    version: tuple[int, int]

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
        return hashes.sha256(str(self.path), _cache_title(self), use_addnet_hash=True) or ""

    @property
    def shorthash(self) -> str:
        return self.hash[:_SHOWN]

    @property
    def known_hash(self) -> str:
        """``hash`` where it has been taken before, else "": for lists, which should not read every file."""
        return hashes.sha256_from_cache(str(self.path), _cache_title(self), use_addnet_hash=True) or ""


def entries() -> list[Entry]:
    """The LoKr files, as they are on disk now, in the order of the folders and their names."""
    return refresh().lokr


def find(name: str) -> Entry:
    """The adapter that a prompt calls ``name``: a file's name, an alias or ``name(hash)``; in any case of letters
    where that is clear. A LoKr before any other file. Raises UnknownName.
    """
    try:
        entry = (_listing or refresh()).find(name)
        if _version(entry.path) == entry.version:
            return entry
    except (UnknownName, OSError):
        pass  # it may be new, moved, or replaced since the folders were listed
    return refresh().find(name)


def find_hashed(shorthash: str) -> Entry | None:
    """The LoKr whose hash begins so: by hashes that are known or that the trainer wrote, then by reading the files."""
    files = entries()
    for known in (lambda e: e.known_hash, lambda e: e.outline.metadata.get("sshs_model_hash", ""), lambda e: e.hash):
        found = next((entry for entry in files if known(entry).startswith(shorthash)), None)
        if found and found.shorthash == shorthash:
            return found
    return None


def folder_of(path: Path) -> Path | None:
    """The model folder that holds ``path``; None where none does."""
    return next((folder for folder in settings.folders() if path.is_relative_to(folder)), None)


def refresh() -> Listing:
    """List the folders anew."""
    global _listing
    _listing = Listing(_scan(settings.folders()))
    return _listing


class Listing:
    """The files of one moment, and their names."""

    def __init__(self, files: Iterable[Entry]):
        files = list(files)
        self.lokr = _named([entry for entry in files if entry.is_lokr])
        self.others = [entry for entry in files if not entry.is_lokr]
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
                if stem in (_folded(_stem(entry.path)), _folded(entry.alias)) and entry.hash.startswith(digits):
                    return entry
        raise UnknownName(name, self._near(wanted))

    def _one(self, name: str, found: list[Entry]) -> Entry:
        if len(found) > 1 and found[0].is_lokr:
            raise UnknownName(name, sorted({entry.name for entry in found}), "Several LoKr files have this name")
        return found[0]

    def _near(self, name: str) -> list[str]:
        """Names that hold ``name`` or are spelled much like it, the likeliest first."""
        folded = {_folded(said): said for entry in self.lokr for said in (entry.alias, entry.name)}
        wanted = _folded(name)
        near = difflib.get_close_matches(wanted, folded, n=3, cutoff=0.5)
        near += [other for other in folded if wanted and wanted in other]
        return list(dict.fromkeys(folded[other] for other in near))[:3]


def _named(files: list[Entry]) -> list[Entry]:
    """The same files with names and aliases that mean one file each; a file that lies there twice, once."""
    count = Counter(entry.name for entry in files)
    named = {}
    for entry in files:
        name = entry.name if count[entry.name] == 1 else f"{entry.name}({_content_hash(entry)[:_SHOWN]})"
        named.setdefault(name, replace(entry, name=name))
    said = Counter(_folded(entry.alias) for entry in named.values())
    names = {_folded(entry.name): entry for entry in named.values()}
    for name, entry in named.items():
        alias = _folded(entry.alias)
        clear = said[alias] == 1 and names.get(alias, entry) is entry and not _NOT_IN_A_TAG.search(entry.alias)
        if not clear or alias == "none":  # the host's <lora:None> means no network
            named[name] = replace(entry, alias=name)
    return list(named.values())


def _index(files: list[Entry]) -> dict[str, list[Entry]]:
    """Name -> the files that it means: as it is spelled, and folded. Spelled out names come before folded ones, and
    names of files before aliases.
    """
    index: dict[str, list[Entry]] = {}
    for said in (
        lambda entry: entry.name,
        lambda entry: entry.alias,
        lambda entry: _stem(entry.path),  # what several files share is found too, and told as such
        lambda entry: _output_name(entry.outline) or entry.name,
        lambda entry: _folded(entry.name),
        lambda entry: _folded(entry.alias),
    ):
        layer = defaultdict(list)
        for entry in files:
            layer[said(entry)].append(entry)
        for name, found in layer.items():
            index.setdefault(name, found)
    return index


def _folded(name: str) -> str:
    """``name`` without what people type differently: case, and the two spellings that Unicode has for é."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _stem(path: Path) -> str:
    """The file's name as a tag can say it: ``:``, ``=`` and brackets of tags are ``_``."""
    return _NOT_IN_A_TAG.sub("_", path.stem).strip()


def _output_name(outline: Outline | None) -> str:
    """What the trainer was told to call the file."""
    return outline.metadata.get("ss_output_name", "").strip() if outline else ""


def _scan(folders: Iterable[Path]) -> Iterator[Entry]:
    """The files of ``folders``, each once: a folder may lie in another, or be a link to it."""
    seen = set()
    for folder in folders:
        real = Path(os.path.realpath(folder))
        for path in _files(folder):
            file = real / path.relative_to(folder)
            if file in seen:
                continue
            seen.add(file)
            try:
                version = _version(path)
            except OSError:
                continue  # removed while the folder was read
            outline, name = _outline(path, version), _stem(path)
            yield Entry(name, path, _output_name(outline) or name, outline, version)


def _files(root: Path) -> Iterator[Path]:
    """The adapter files under ``root``, which may be a link itself. Links in it are not followed: they lead out of the
    folders that the user named.
    """
    for folder, folders, files in os.walk(root):
        folders.sort(key=str.lower)
        for name in sorted(folders):
            if os.path.islink(os.path.join(folder, name)):
                _say_once(f"{folder}/{name} is a link and is not followed; add its target in Settings, LoKr")
        for name in sorted(files, key=str.lower):
            path = Path(folder, name)
            if path.suffix.lower() != ".safetensors":
                continue
            if path.is_symlink():
                _say_once(f"{path} is a link and is not read; add the folder of its target in Settings, LoKr")
                continue
            yield path


def _version(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=20_000)
def _outline(path: Path, version: tuple[int, int]) -> Outline | None:
    """What the file at that version is, from the host's cache on disk where it is known; None for a broken one."""
    known = cache.cache("lokr-outlines")
    title = f"{path} {version}"
    try:
        return Outline(**known[title])
    except (KeyError, TypeError):  # TypeError: written by another version of this extension
        pass
    try:
        found = outline(path)
    except LoKrError as error:
        _say_once(str(error))
        return None
    known[title] = asdict(found)
    return found


def _content_hash(entry: Entry) -> str:
    """``entry.hash``, taken even where hashing is switched off: two files of one name need it."""
    if entry.hash:
        return entry.hash
    with entry.path.open("rb") as file:
        return hashes.addnet_hash_safetensors(file)


def _cache_title(entry: Entry) -> str:
    """With the version in it: the host's cache takes a file for the old one where it is not newer."""
    return f"lokr/{entry.path} {entry.version}"


@lru_cache(maxsize=1000)
def _say_once(text: str) -> None:
    errors.print_error_explanation(f"LoKr: {text}")
