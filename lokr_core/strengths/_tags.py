"""``<lokr:name:0.8:0.6>`` in a prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import LoKrValueError

_TAG = re.compile(r"<\s*lokr\s*:([^<>]*)>", re.IGNORECASE)
_NAMED = {"te": "te", "clip": "te", "unet": "unet", "model": "unet"}


@dataclass(frozen=True)
class Tag:
    """One tag: the adapter's name, its strengths for text encoder and denoiser, and the tag as it was written."""

    name: str
    te: float
    unet: float
    text: str


def read_tags(prompt: str) -> tuple[str, list[Tag]]:
    """The prompt without its tags, and the tags in their order.

    ``<lokr:name>``, ``<lokr:name:both>``, ``<lokr:name:te:unet>``: A1111's order for LoRA, the text encoder first;
    also by name: ``te=`` (or ``clip=``) and ``unet=`` (or ``model=``). A strength for the denoiser that is not said is
    the text encoder's, as A1111 has it. The name ``lokr`` is in any case.

    >>> read_tags("a lighthouse <lokr:style:0.8:0.6>, dusk")
    ('a lighthouse, dusk', [Tag(name='style', te=0.8, unet=0.6, text='<lokr:style:0.8:0.6>')])

    Raises LoKrValueError that shows the tag, where a name or a number is none.
    """
    tags = [tag_of(match.group(1).split(":"), match.group()) for match in _TAG.finditer(prompt)]
    if not tags:
        return prompt, []
    cleaned = re.sub(r"[ \t]*" + _TAG.pattern, "", prompt, flags=re.IGNORECASE)
    return cleaned.strip(), tags


def tag_of(pieces: Iterable[str], text: str) -> Tag:
    """The tag whose pieces between colons are the name and what follows it; ``text``: the tag as it was written.

    >>> tag_of(["style", "0.8", "unet=0.6"], "<lokr:style:0.8:unet=0.6>").unet
    0.6

    Raises LoKrValueError that shows ``text``.
    """
    name, *rest = (piece.strip() for piece in pieces)
    if not name:
        raise LoKrValueError("A tag names no adapter", expected="<lokr:name:strength>", found=text)
    numbers, named = [], {}
    for piece in rest:
        key, sign, value = piece.partition("=")
        if sign:
            if key.strip().lower() not in _NAMED:
                raise LoKrValueError(f"A tag has no {key!r}", expected=", ".join(_NAMED), found=text)
            named[_NAMED[key.strip().lower()]] = _number(value, text)
        else:
            numbers.append(_number(piece, text))
    if len(numbers) > 2:
        raise LoKrValueError("A tag has two strengths at most", expected="<lokr:name:te:unet>", found=text)
    te = named.get("te", numbers[0] if numbers else 1.0)
    return Tag(name, te, named.get("unet", numbers[1] if len(numbers) > 1 else te), text)


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise LoKrValueError(
            f"A tag's strength is no number: {value.strip()!r}", expected="<lokr:name:0.8> or so", found=text
        )
    return number
