"""What a ``<lokr:…>`` in a prompt asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lokr_core.errors import LoKrValueError
from lokr_core.strengths import BlockStrengths, Schedule, Tag, tag_of

LIVE, MERGE = "live", "merge"
_OPTIONS = ("blocks", "start", "end", "mode")  # besides those of every tag


@dataclass(frozen=True)
class Request:
    """One tag, checked: its name and strengths, per block, over the run, and how to apply it.

    by_default: whether ``mode`` is the user's setting, which another mode would replace
    """

    tag: Tag
    blocks: BlockStrengths
    schedule: Schedule | None
    mode: str
    by_default: bool = False

    def as_strong_as(self, other: Request) -> bool:
        """Whether both ask for the same strengths."""
        return (self.tag.te, self.tag.unet, self.blocks) == (other.tag.te, other.tag.unet, other.blocks)


def request_of(items: Sequence[str], default_mode: str = LIVE) -> Request:
    """The request of a tag whose parts between colons are ``items`` (the host's ``ExtraNetworkParams.items``).

    ``<lokr:name:te:unet>`` with ``te=``, ``unet=``, ``blocks=IN=0.5,MID=1``, ``start=0.2``, ``end=0.8``,
    ``mode=live`` or ``merge``, and ``expert=high`` or ``low``. ``default_mode`` is the user's; a tag with ``start=`` or
    ``end=`` is live all the same.

    >>> request_of(["style", "0.8", "start=0.3"]).schedule.start
    0.3

    Raises LoKrValueError, with the tag in it.
    """
    text = f"<lokr:{':'.join(map(str, items))}>"
    options, strengths = _options([str(item) for item in items], text)
    tag = tag_of(strengths, text, _OPTIONS)
    try:
        blocks = BlockStrengths.parse(options.get("blocks", ""))
        window = {key: _number(options[key], key) for key in ("start", "end") if key in options}
        schedule = Schedule(**window) if window else None
        mode = _mode(options.get("mode"), default_mode, schedule)
    except LoKrValueError as error:
        if options.get("blocks"):
            error.hint = error.hint or "in a tag a block has its strength behind =, as in blocks=IN=0.5,MID=1"
        error.problem = f"{error.problem} in {text}"
        raise
    return Request(tag, blocks, schedule, mode, by_default="mode" not in options and not schedule)


def _options(items: list[str], text: str) -> tuple[dict[str, str], list[str]]:
    """The options that are not strengths, and all other items. The first item is the name, whatever is in it."""
    options: dict[str, str] = {}
    rest = items[:1]
    for item in items[1:]:
        key, sign, value = (part.strip() for part in item.partition("="))
        key = key.lower()
        if not sign or key not in _OPTIONS:
            rest.append(item)
        elif key in options:
            raise LoKrValueError(f"A tag has {key}= twice", found=text)
        else:
            options[key] = value
    return options, rest


def _number(value: str, key: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise LoKrValueError(f"{key}= is not a number", expected="a number from 0 to 1", found=value) from None


def _mode(mode: str | None, default: str, schedule: Schedule | None) -> str:
    if mode is None:
        return LIVE if schedule else default
    mode = mode.lower()
    if mode not in (LIVE, MERGE):
        raise LoKrValueError("Unknown mode", expected="mode=live or mode=merge", found=mode)
    if mode == MERGE and schedule:
        raise LoKrValueError(
            "A merged adapter has one strength for the whole run", expected="no start= and end=", found="mode=merge"
        )
    return mode
