"""One adapter file of the host's model folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modules import hashes

from lokr_core.inspection import Outline

from . import settings

NOT_IN_A_TAG = re.compile(r"[<>:=\n\r\t]")
SHOWN = 12  # digits of a hash in names and infotext, as the host shows


@dataclass(frozen=True)
class Entry:
    """One adapter file.

    name: the file's, without folder and ending, unique: followed by the hash if several LoKr files share it,
    ``style(0a1b2c3d4e5f)``
    alias: what its metadata calls it (``ss_output_name``) if that means this file alone, else ``name``
    outline: what its header says, None if it cannot be read
    version: (modification time in ns, size in bytes), which tells it from another file that takes its place
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
