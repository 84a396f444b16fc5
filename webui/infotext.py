"""Which files a picture was made with, in its parameters and back: ``LoKr hashes: "style: 0a1b2c3d4e5f, ..."``.

Beside it stands the mode of tags that leave it to the setting; strengths stand in the prompt's tags, which the host
writes.
``write(p, used)`` is called at each activation; the door calls ``register()`` while scripts load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from modules import script_callbacks

from . import library, settings
from .applied import Use
from .listing import UnknownName

FIELD = "LoKr hashes"
_PROMPTS = ("Prompt", "Hires prompt")
_NAME = re.compile(r"(?<=<lokr:)[^:<>]+", re.IGNORECASE)
_SEPARATORS = str.maketrans("", "", ":,")


def register() -> None:
    """Read the field when parameters are pasted, on the page and over the API."""
    script_callbacks.on_infotext_pasted(pasted)


def write(p, uses: Iterable[Use]) -> None:
    """Note in the parameters of the pictures of ``p`` the tags that are in force.

    The pass of hires fix adds to what the first pass used; every other activation replaces it.
    """
    if not settings.writes_hashes():
        return
    if not getattr(p, "is_hr_pass", False):
        p.lokr_hashes, p.lokr_mode = {}, ""
    noted = p.lokr_hashes = getattr(p, "lokr_hashes", {})
    uses = list(uses)
    noted.update({_key(use.request.tag.name): use.entry.shorthash for use in uses})
    p.lokr_mode = next((use.request.mode for use in uses if use.request.by_default), getattr(p, "lokr_mode", ""))
    parameters = p.extra_generation_params
    for field in (FIELD, settings.MODE_FIELD):
        parameters.pop(field, None)
    hashes = ", ".join(f"{name}: {shorthash}" for name, shorthash in noted.items() if shorthash)
    if hashes:  # empty if the user has disabled hashing
        parameters[FIELD] = hashes
    if p.lokr_mode:
        parameters[settings.MODE_FIELD] = p.lokr_mode


def pasted(infotext: str, parameters: dict) -> None:
    """Replace the names in the prompt by those that the files have here."""
    noted = _read(parameters.get(FIELD, ""))
    if not noted:
        return
    library.refresh()  # a name may be several files' by now
    for field in _PROMPTS:
        if parameters.get(field):
            parameters[field] = _NAME.sub(lambda name: _here(name[0], noted.get(_key(name[0]))), parameters[field])


def _here(name: str, shorthash: str | None) -> str:
    """The name here of the file with that hash. Returns ``name`` if it means that file, or if the file is not here."""
    if shorthash is None:
        return name
    try:
        if library.find(name).shorthash == shorthash:
            return name
    except UnknownName:
        pass
    found = library.find_hashed(shorthash)
    return found.tag_name if found else name


def _read(text: str) -> dict[str, str]:
    """Name -> hash, of what the field says."""
    pairs = (pair.rpartition(":") for pair in text.split(","))
    return {name.strip(): shorthash.strip() for name, _, shorthash in pairs if name.strip() and shorthash.strip()}


def _key(name: str) -> str:
    """``name`` without the characters that separate the field's parts."""
    return name.translate(_SEPARATORS).strip()
