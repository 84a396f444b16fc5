"""The adapter files in the host's model folders, and the names that a prompt calls them by.

``entries()`` lists the LoKr files as they are on disk now; ``find(name)`` is the one that a tag means. Headers alone
are read, each again only after its file has changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from modules import cache, errors, paths, shared

from lokr_core.errors import LoKrError
from lokr_core.inspection import Outline, outline

from . import settings
from .listing import Entry, Listing, UnknownName, output_name, stem_of

_listing: Listing | None = None


def entries() -> list[Entry]:
    """The LoKr files, as they are on disk now, in the order of the folders and their names."""
    return refresh().lokr


def broken() -> list[Entry]:
    """The files that cannot be read, of those that ``entries`` has seen."""
    return (_listing or refresh()).broken


def find(name: str) -> Entry:
    """The adapter that a prompt calls ``name``: a file's name, an alias or ``name(hash)``, in any case if that is
    unambiguous. A LoKr comes before any other file. Raises UnknownName.
    """
    try:
        entry = (_listing or refresh()).find(name)
        if _version(entry.path) == entry.version:
            return entry
    except (UnknownName, OSError):
        pass  # it may be new, moved, or replaced since the folders were listed
    return refresh().find(name)


def find_hashed(shorthash: str) -> Entry | None:
    """The LoKr whose hash starts with ``shorthash``: by known hashes and the trainer's, then by reading the files.

    Returns None if there is none.
    """
    files = entries()
    for known in (lambda e: e.known_hash, lambda e: e.outline.metadata.get("sshs_model_hash", ""), lambda e: e.hash):
        found = next((entry for entry in files if known(entry).startswith(shorthash)), None)
        if found and found.shorthash == shorthash:
            return found
    return None


def folders() -> list[Path]:
    """The folders with adapters, those for LoKr first; absolute, each once, whether they exist or not."""
    arguments, models = shared.cmd_opts, Path(paths.models_path)
    named = [
        getattr(arguments, "lokr_dir", None) or models / "LoKr",
        *settings.further_folders(),
        getattr(arguments, "lora_dir", None) or models / "Lora",
        *(getattr(arguments, "lora_dirs", None) or []),  # Forge Neo's further ones
        getattr(arguments, "lyco_dir_backcompat", None) or models / "LyCORIS",
    ]
    return list(dict.fromkeys(Path(folder).expanduser().absolute() for folder in named))


def folder_of(path: Path) -> Path | None:
    """The model folder that contains ``path``. Returns None if none does."""
    return next((folder for folder in folders() if path.is_relative_to(folder)), None)


def refresh() -> Listing:
    """List the folders anew."""
    global _listing
    _listing = Listing(_scan(folders()))
    return _listing


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
            (outline, problem), name = _outline(path, version), stem_of(path)
            yield Entry(name, path, output_name(outline) or name, outline, version, problem)


def _files(root: Path) -> Iterator[Path]:
    """The adapter files under ``root``, which may be a link itself. Links in it are not followed: they may lead out of
    the folders that the user named.
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
def _outline(path: Path, version: tuple[int, int]) -> tuple[Outline | None, str]:
    """The file's outline at that version, from the host's cache on disk if known; or (None, why it cannot be read)."""
    known = cache.cache("lokr-outlines")
    title = f"{path} {version}"
    try:
        return Outline(**known[title]), ""
    except (KeyError, TypeError):  # TypeError: written by another version of this extension
        pass
    try:
        found = outline(path)
    except LoKrError as error:
        _say_once(str(error))
        return None, "; ".join(part for part in (error.problem, error.found and f"found: {error.found}") if part)
    known[title] = asdict(found)
    return found, ""


@lru_cache(maxsize=1000)
def _say_once(text: str) -> None:
    errors.print_error_explanation(f"LoKr: {text}")
