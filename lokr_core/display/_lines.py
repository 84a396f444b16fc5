"""Text in the columns of a terminal."""

from __future__ import annotations

import re
import shutil
import textwrap

# What a line begins with that its further lines stand beside: spaces, and a label before two spaces.
_LABEL = re.compile(r"^ *(?:\S+(?: \S+)* {2,}(?=\S))?")
_MOST = 20  # columns of a label
_COMMAND = re.compile(r"^ *lokr [a-z-]+ ")


def columns() -> int:
    """The columns of the terminal, 80 without one.

    >>> columns() > 0
    True
    """
    return shutil.get_terminal_size((80, 24)).columns


def wrapped(text: str, width: int) -> str:
    """``text`` with lines of at most ``width`` columns, but for words that are longer; further lines are indented.

    A command, ``lokr …``, is broken as a shell takes it over several lines.

    >>> print(wrapped("note: the file holds two experts\\nsize      4,872 numbers in fp32", 24))
    note: the file holds two
      experts
    size      4,872 numbers
              in fp32
    """
    return "\n".join(line if len(line) <= width else _wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    if _COMMAND.match(line):
        further = " " * (len(line) - len(line.lstrip()) + 2)
        return " \\\n".join(_filled(line, width - 2, further))
    match = _LABEL.match(line)
    label = len(match.group()) if match else 0
    longest = max(map(len, line[label:].split()), default=0)
    if not 0 < label <= min(_MOST, width - longest):
        label = 2
    return "\n".join(_filled(line, width, " " * label))


def _filled(line: str, width: int, further: str) -> list[str]:
    return textwrap.wrap(
        *(line, width),
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def shortened(text: str, width: int) -> str:
    """``text`` in ``width`` columns, its middle left out if it is longer.

    >>> shortened("a-very-long-name.safetensors", 16)
    'a-very-…tensors'
    """
    if len(text) <= width:
        return text
    kept = max(2, width - 1) // 2
    return f"{text[:kept]}…{text[-kept:]}"
