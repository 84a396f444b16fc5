"""Which adapter files ComfyUI offers."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Collection

import folder_paths

from ..lokr_core.errors import LoKrFileError

PICTURES = (".preview.png", ".png", ".jpg", ".jpeg", ".webp", ".preview.jpg", ".preview.jpeg", ".preview.webp", ".gif")


def _folders() -> list[str]:
    """ComfyUI's ``loras``, after ``lokr`` if the user has that folder."""
    own = os.path.join(folder_paths.models_dir, "lokr")
    if os.path.isdir(own):
        folder_paths.add_model_folder_path("lokr", own)
    return [folder for folder in ("lokr", "loras") if folder in folder_paths.folder_names_and_paths]


def adapter_names() -> list[str]:
    """The names that a node offers; ComfyUI asks anew when the user refreshes (R)."""
    names = {name: None for folder in _folders() for name in folder_paths.get_filename_list(folder)}
    return sorted((name for name in names if name.lower().endswith(".safetensors")), key=str.lower)


def adapter_path(name: str) -> str:
    """The file of that name. Raises LoKrFileError, with similar names, if there is none."""
    if not name:
        raise LoKrFileError("No file is chosen", hint="choose an adapter file on the node")
    for folder in _folders():
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return path
    near = _near(name)
    raise LoKrFileError(
        "There is no such adapter file",
        file=name,
        expected="a file in models/loras or models/lokr",
        found=f"near: {', '.join(near)}" if near else None,
        hint="pick another file, or put it there and press R",
    )


def _near(name: str) -> list[str]:
    """The adapter names most similar to ``name``, at most three; folders and endings do not count."""

    def stem(text: str) -> str:
        return text.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".safetensors")

    by_stem: dict[str, list[str]] = {}
    for known in adapter_names():
        by_stem.setdefault(stem(known), []).append(known)
    return [known for near in difflib.get_close_matches(stem(name), by_stem, n=3) for known in by_stem[near]][:3]


def adapter_called(name: str) -> str:
    """The file that a person means by ``name``, which may lack folder and ending, in any case.

    Raises LoKrFileError if no file has the name, or several.
    """
    known, wanted = adapter_names(), name.replace("\\", "/").lower().removesuffix(".safetensors")

    def spelled(known_name: str) -> str:
        return known_name.replace("\\", "/").lower().removesuffix(".safetensors")

    found = [other for other in known if spelled(other) == wanted]
    found = found or [other for other in known if spelled(other).rpartition("/")[2] == wanted]
    if len(found) > 1:
        raise LoKrFileError(
            "Several adapter files have this name",
            file=name,
            found=", ".join(found),
            hint="write the folder too, as in one of these",
        )
    if found:
        return found[0]
    adapter_path(f"{name}.safetensors")  # raises, unless the file has come since the names were listed
    return f"{name}.safetensors"


def preview_path(path: str, names: Collection[str] | None = None) -> str | None:
    """The picture beside an adapter file. Returns None if there is none or a link leads out of the file's folder.

    names: those in the file's folder, if they are known
    """
    stem = os.path.splitext(path)[0]
    for ending in PICTURES:
        picture = stem + ending
        known = names is None or os.path.basename(picture) in names
        if known and os.path.isfile(picture) and folder_paths.is_within_directory(os.path.dirname(path), picture):
            return picture
    return None


def fingerprint(name: str | None) -> str:
    """A cache key of the file's path and version, "" for a name that is not known yet (None).

    ComfyUI saves it as JSON in every image, so it is a hash: a path would show the user's folders.
    """
    return "" if name is None else fingerprint_of(*version(name))


def fingerprint_of(path: str, mtime_ns: int, size: int) -> str:
    """The fingerprint of a file's version."""
    return hashlib.sha256(repr((path, mtime_ns, size)).encode()).hexdigest()[:16]


def is_plain_file(path: str) -> bool:
    """Whether the path is a .safetensors file or a link to one: a link may lead to any other file.

    ComfyUI follows links, so that models may lie on other disks.
    """
    return os.path.isfile(path) and os.path.realpath(path).lower().endswith(".safetensors")


def version(name: str) -> tuple[str, int, int]:
    """(path, modification time in ns, size in bytes) of the file of that name. Raises LoKrFileError, OSError."""
    path = adapter_path(name)
    status = os.stat(path)
    return path, status.st_mtime_ns, status.st_size
