"""Writes docs/library.md, the library's reference, out of its docstrings: ``python docs/library.py``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import lokr_core  # noqa: E402
from lokr_core import display, inspection, kronecker, strengths, tools  # noqa: E402

PAGE = PROJECT / "docs" / "library.md"

# Packages behind the package's own names that are meant to be used too.
FURTHER = (kronecker, strengths, inspection, tools, display)


def reference() -> str:
    """The page: what the package exports, then the further packages, each with its signature and docstring."""
    parts = [
        "# The library",
        "Made from the docstrings by `python docs/library.py`. `import lokr_core` is all that most need; torch, "
        "safetensors and numpy are all that it needs.",
    ]
    parts += [text for name in lokr_core.__all__ for text in _entry(name, getattr(lokr_core, name))]
    for module in FURTHER:
        parts += [f"# {module.__name__}", _first_paragraph(module)]
        parts += [text for name in module.__all__ for text in _entry(name, getattr(module, name))]
    return "\n\n".join(parts) + "\n"


def _first_paragraph(thing: object) -> str:
    return _docstring(thing).partition("\n\n")[0]


def _docstring(thing: object) -> str:
    """Its own, not one that it inherits from torch or a base class."""
    return inspect.cleandoc(thing.__doc__ or "")


def _entry(name: str, thing: object) -> Iterator[str]:
    """A heading, the signature and the docstring; of a class, its public methods and properties too."""
    if inspect.isclass(thing):
        yield f"## {name}"
        yield from _documented(thing)
        for member_name, member in vars(thing).items():
            own = isinstance(member, (property, classmethod)) or inspect.isfunction(member)
            if own and not member_name.startswith("_") and _docstring(member):
                function = member.__func__ if isinstance(member, classmethod) else member
                yield f"### {name}.{member_name}{_signature(function)}"
                yield from _documented(member)
    elif inspect.isfunction(thing):
        yield f"## {name}"
        yield f"```python\n{name}{_signature(thing)}\n```"
        yield from _documented(thing)


def _signature(function: object) -> str:
    if isinstance(function, property):
        return ""
    text = str(inspect.signature(function)).replace("'", "")
    return re.sub(r"\((self|cls)(, )?", "(", text, count=1)


def _documented(thing: object) -> Iterator[str]:
    """The docstring as markdown: examples in fences, ``code`` as `code`."""
    text = _docstring(thing)
    if inspect.isclass(thing) and text.startswith(f"{thing.__name__}("):  # dataclasses' own
        return
    lines, fenced = [], False
    for line in text.replace("``", "`").splitlines():
        if line.startswith(">>>") and not fenced:
            lines.append("```python")
            fenced = True
        elif fenced and not line.strip():
            lines.append("```")
            fenced = False
        lines.append(line if fenced else line.lstrip())  # indented text would be code
    if fenced:
        lines.append("```")
    yield "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
