"""Tags in a prompt: ``<lokr:name:0.8:0.6>``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import LoKrValueError
from ._text import finite

_TAG = re.compile(r"<\s*lokr\s*:([^<>]*)>", re.IGNORECASE)
_OPTIONS = {"te": "te", "clip": "te", "unet": "unet", "model": "unet"}
_EXPERT = "expert"


@dataclass(frozen=True)
class Tag:
    """One tag: the adapter's name, its strengths for the text encoders and the denoiser, and the tag's own text.

    expert: as the tag names it, of an adapter for a model of two experts; "" if it names none
    """

    name: str
    te: float
    unet: float
    text: str
    expert: str = ""


def read_tags(prompt: str) -> tuple[str, list[Tag]]:
    """The prompt without its tags, and the tags in order of appearance.

    ``<lokr:name>``, ``<lokr:name:both>``, ``<lokr:name:te:unet>`` as A1111 does for LoRA, the text encoders' strength
    first; or by name: ``te=`` (alias ``clip=``), ``unet=`` (alias ``model=``). The denoiser's strength defaults to the
    text encoders'. ``expert=high`` or ``expert=low`` chooses one of two experts. ``lokr`` may be in any case.

    Raises LoKrValueError with the tag if its name is missing or a strength is malformed.

    >>> read_tags("a lighthouse <lokr:style:0.8:0.6>, dusk")
    ('a lighthouse, dusk', [Tag(name='style', te=0.8, unet=0.6, text='<lokr:style:0.8:0.6>', expert='')])
    """
    tags = [tag_of(match.group(1).split(":"), match.group()) for match in _TAG.finditer(prompt)]
    if not tags:
        return prompt, []
    cleaned = re.sub(r"[ \t]*" + _TAG.pattern, "", prompt, flags=re.IGNORECASE)
    return cleaned.strip(), tags


def tag_of(pieces: Iterable[str], text: str, others: Iterable[str] = ()) -> Tag:
    """The tag with these pieces, its text split at the colons.

    pieces: the name, then strengths
    text: the whole tag, for errors
    others: the options that the caller has taken out of the pieces, for errors

    Raises LoKrValueError with ``text`` if the name is missing or a strength is malformed.

    >>> tag_of(["style", "0.8", "unet=0.6"], "<lokr:style:0.8:unet=0.6>").unet
    0.6
    """
    name, *rest = (piece.strip() for piece in pieces)
    if not name:
        raise LoKrValueError("A tag names no adapter", expected="<lokr:name:strength>", found=text)
    numbers, named, expert = [], {}, ""
    for piece in rest:
        key, sign, value = piece.partition("=")
        option = key.strip().lower()
        if not sign:
            numbers.append(_number(piece, text))
        elif option == _EXPERT:
            expert = value.strip().lower()
        elif option in _OPTIONS:
            named[_OPTIONS[option]] = _number(value, text)
        else:
            known = ", ".join((*_OPTIONS, _EXPERT, *others))
            raise LoKrValueError(f"Unknown option of a tag: {key!r}", expected=known, found=text)
    if len(numbers) > 2:
        raise LoKrValueError("A tag has at most two strengths", expected="<lokr:name:te:unet>", found=text)
    te = named.get("te", numbers[0] if numbers else 1.0)
    return Tag(name, te, named.get("unet", numbers[1] if len(numbers) > 1 else te), text, expert)


def _number(value: str, text: str) -> float:
    number = finite(value)
    if number is None:
        raise LoKrValueError(
            f"A tag's strength is not a number: {value.strip()!r}", expected="for example <lokr:name:0.8>", found=text
        )
    return number
