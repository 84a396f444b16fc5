"""A strength per block of a model, as text: ``IN:0.2, MID:1, OUT4-8:0.5``, ``double_blocks.*.img_attn=0.5``.

The blocks are read off the model's own module names, so this works for every architecture: any list of numbered modules
with modules inside them is a group of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..errors import LoKrValueError
from ._text import finite, split_entries

# List of blocks -> short name; the short name of any other list is its own, without "_blocks".
_SHORT = {
    "input_blocks": "IN",
    "down_blocks": "IN",
    "middle_block": "MID",
    "mid_block": "MID",
    "output_blocks": "OUT",
    "up_blocks": "OUT",
}
ALL, OTHER = "ALL", "OTHER"

PRESETS: dict[str, str] = {
    "none": "",
    "UNet: input blocks only": "ALL:0, IN:1",
    "UNet: middle block only": "ALL:0, MID:1",
    "UNet: output blocks only": "ALL:0, OUT:1",
    "UNet: without input blocks": "IN:0",
    "SDXL: style (B-LoRA's block)": "ALL:0, output_blocks.1.1=1",
    "SDXL: content (B-LoRA's block)": "ALL:0, output_blocks.0.1=1",
    "Flux: double blocks only": "ALL:0, DOUBLE:1",
    "Flux: single blocks only": "ALL:0, SINGLE:1",
    "blocks only, nothing around them": "OTHER:0",
}

_PREFIX = re.compile(r"^(model\.)?(diffusion_model|unet|transformer)\.")
_BLOCK = re.compile(r"^((?:[A-Za-z_]\w*\.)*?[A-Za-z_]\w*)\.(\d+)\.(?:\d+\.)*(?=[A-Za-z_])")
_NUMBERED = re.compile(r"^([A-Za-z_]+(?:\.[A-Za-z_]+)*?)\.?(\d+)(?:-(\d+))?$")


def block_groups(modules: Iterable[str]) -> dict[str, tuple[str, set[int]]]:
    """The groups of blocks in a model: short name -> (name of the list, numbers of its blocks).

    >>> block_groups(["double_blocks.0.img_attn.qkv", "double_blocks.1.img_attn.qkv", "img_in", "time_in.0"])
    {'DOUBLE': ('double_blocks', {0, 1})}
    """
    paths = [_relative(path) for path in modules]
    lists = {}
    for path in paths:
        match = _BLOCK.match(path)
        if path.startswith("mid_block."):  # without a number in diffusers
            lists["mid_block"] = {0}
        elif match:
            lists[match.group(1)] = set()
    for path in paths:  # a block may be a single layer, such as a UNet's first
        for name, numbers in lists.items():
            number = path.removeprefix(f"{name}.").partition(".")[0]
            if path.startswith(f"{name}.") and number.isdigit():
                numbers.add(int(number))
    groups: dict[str, tuple[str, set[int]]] = {}
    for name in sorted(lists, key=lambda name: name.count(".")):
        short = short_name(name)
        # If two lists have the same short name, the inner one keeps its full name.
        groups[name if short in groups else short] = (name, lists[name])
    return groups


def short_name(name: str) -> str:
    """The short name of a list of blocks.

    >>> short_name("input_blocks"), short_name("double_blocks")
    ('IN', 'DOUBLE')
    """
    return _SHORT.get(name) or name.rpartition(".")[2].removesuffix("_blocks").upper()


def _relative(path: str) -> str:
    return _PREFIX.sub("", path)


@dataclass(frozen=True)
class BlockStrengths:
    """Strengths of blocks and layers: (name, strength) entries.

    The last entry that matches a module gives its strength, which is 1 if no entry does.

    A name is a group (``IN``, ``MID``, ``OUT``, ``DOUBLE``, ``blocks``, ...), one or some of its blocks (``IN3``,
    ``OUT4-8``, ``double_blocks.0-9``), ``OTHER`` (everything outside the groups), ``ALL``, or a pattern of module names
    in which ``*`` matches anything and which includes all submodules.

    >>> of = BlockStrengths.parse("DOUBLE:0.5, double_blocks.*.img_attn=0.2").over(["double_blocks.0.img_attn.qkv"])
    >>> of("double_blocks.0.img_attn.qkv")
    0.2
    """

    entries: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> BlockStrengths:
        """Read entries ``name:strength`` or ``name=strength``, separated by commas, semicolons or lines.

        Raises LoKrValueError with the entry if it is malformed.
        """
        entries = []
        for piece in split_entries(text):
            name, _, number = piece.replace("=", ":").partition(":")
            strength = finite(number)
            if not name.strip() or strength is None:
                raise LoKrValueError("Not a strength of a block", expected="name:number, IN:0.5", found=piece)
            entries.append((name.strip(), strength))
        return cls(tuple(entries))

    def over(self, modules: Iterable[str]) -> Callable[[str], float]:
        """A function from a module's name to its factor, for the model with these ``modules``.

        Raises LoKrValueError, with the model's own names, if an entry matches no module.
        """
        modules = list(modules)
        groups = block_groups(modules)
        factors: dict[str, float] = {}
        unknown = []
        for name, strength in self.entries:
            matches = _matcher(name, groups)
            named = [path for path in modules if matches(_relative(path))]
            factors.update(dict.fromkeys(named, strength))
            if not named and name.upper() not in (ALL, OTHER):
                unknown.append(name)
        if unknown:
            raise LoKrValueError(
                f"Unknown blocks for this model: {', '.join(unknown)}",
                expected=_known_names(groups),
                found=", ".join(unknown),
                hint="use these names, or a pattern of module names such as *attn*",
            )
        return lambda path: factors.get(path, 1.0)


def _matcher(name: str, groups: Mapping[str, tuple[str, set[int]]]) -> Callable[[str], bool]:
    """A function that tells whether an entry's ``name`` matches a module's path."""
    lists = {long for long, _ in groups.values()}
    if name.upper() == ALL:
        return lambda path: True
    if name.upper() == OTHER:
        return lambda path: not any(path.startswith(f"{long}.") for long in lists)
    numbered = _NUMBERED.match(name)
    group = _group(numbered.group(1) if numbered else name, groups)
    if group is not None:
        long, numbers = group
        if numbered:
            first, last = int(numbered.group(2)), int(numbered.group(3) or numbered.group(2))
            numbers = {number for number in numbers if first <= number <= last}
            return lambda path: any(path.startswith(f"{long}.{number}.") for number in numbers)
        return lambda path: path.startswith(f"{long}.")
    pattern = ".*".join(re.escape(piece) for piece in _relative(name).split("*"))
    whole = re.compile(rf"{pattern}(\..*)?")
    return lambda path: whole.fullmatch(path) is not None


def _group(name: str, groups: Mapping[str, tuple[str, set[int]]]) -> tuple[str, set[int]] | None:
    """The group with that short or full name, in any case. Returns None if no group has it."""
    for short, (long, numbers) in groups.items():
        if name.upper() == short or name.lower() == long.lower():
            return long, numbers
    return None


def _known_names(groups: Mapping[str, tuple[str, set[int]]]) -> str:
    named = [f"{short}{min(n)} to {short}{max(n)}" if len(n) > 1 else short for short, (_, n) in groups.items()]
    return ", ".join([*groups, *(text for text in named if " to " in text), OTHER, ALL])
