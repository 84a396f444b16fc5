"""Writes the library's reference out of its docstrings: ``python docs/library.py``.

docs/library.md lists every public name; docs/library/ROOM.md describes those of one room of ``lokr_core``, and
docs/library/ROOM-FILE.md those of one file of a room that has many.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import lokr_core  # noqa: E402
from lokr_core import conversion, diffusion, display, inspection, kronecker, strengths, tools, training  # noqa: E402

INDEX = PROJECT / "docs" / "library.md"
FOLDER = PROJECT / "docs" / "library"

# Rooms whose own names are meant to be used too, beyond those that ``lokr_core`` itself exports.
FURTHER = (kronecker, strengths, inspection, tools, training, diffusion, display, conversion)
MANY = 20  # names of a room on one page, at most


def pages() -> dict[Path, str]:
    """Every page of the reference and its text."""
    rooms: dict[str, dict[str, object]] = {}
    for face in (lokr_core, *FURTHER):
        for name in face.__all__:
            thing = getattr(face, name)
            ours = (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__.startswith("lokr_core.")
            if ours and thing.__name__ == name:  # not an alias
                rooms.setdefault(thing.__module__.split(".")[1], {})[name] = thing
    found: dict[Path, str] = {INDEX: _index(rooms)}
    for room, things in rooms.items():
        for page in {_page_of(thing, things): None for thing in things.values()}:
            entries = {name: thing for name, thing in things.items() if _page_of(thing, things) == page}
            found[FOLDER / f"{page}.md"] = _page(_module(room), entries)
    return found


def _page_of(thing: object, room: dict[str, object]) -> str:
    """The name of the page that describes one of a room's things."""
    _, name, *file = thing.__module__.split(".")
    return f"{name}-{file[0].strip('_')}" if len(room) > MANY and file else name


def _index(rooms: dict[str, dict[str, object]]) -> str:
    parts = [
        "# The library",
        "Made from the docstrings by `python docs/library.py`. `import lokr_core` is all that most need; a name in "
        "*italics* is imported from its room, as in `from lokr_core.kronecker import apply_kron`.",
    ]
    for room, things in rooms.items():
        parts.append(f"## {room}\n\n{_first_paragraph(_module(room))}")
        rows = [
            f"- {_linked(name, _page_of(thing, things))}: {_first_sentence(thing)}" for name, thing in things.items()
        ]
        parts.append("\n".join(row.removesuffix(": ") for row in rows))
    return "\n\n".join(parts) + "\n"


def _linked(name: str, page: str) -> str:
    link = f"[`{name}`](library/{page}.md#{name.lower()})"
    return link if name in lokr_core.__all__ else f"*{link}*"


def _page(module: object, things: dict[str, object]) -> str:
    parts = [f"# {module.__name__}", _first_paragraph(module)]
    parts += [text for name, thing in things.items() for text in _entry(name, thing)]
    return "\n\n".join(parts) + "\n"


def _module(room: str) -> object:
    return importlib.import_module(f"lokr_core.{room}")


def _first_paragraph(thing: object) -> str:
    return "" if _is_generated(thing) else _docstring(thing).partition("\n\n")[0].replace("``", "`")


def _first_sentence(thing: object) -> str:
    text = " ".join(_first_paragraph(thing).split())
    return re.split(r"(?<=[.;:]) ", text)[0].rstrip(".;:")


def _is_generated(thing: object) -> bool:
    """Whether a dataclass wrote its own docstring: its signature."""
    return inspect.isclass(thing) and _docstring(thing).startswith(f"{thing.__name__}(")


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
    if _is_generated(thing):
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


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for path in set(FOLDER.glob("*.md")) - set(written):
        path.unlink()
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
