"""Counts of a checkout's structure, section by section: ``python -m benchmarks.house [FOLDER] [--json]``.

The product's Python files are read and never run. A room is a folder, a face is a package's ``__init__.py``.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import subprocess
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

PRODUCT = re.compile(r"(lokr_core|nodes|webui|scripts)/.*\.py|(__init__|install|preload)\.py")
NOT_PRODUCT = ("tests", "benchmarks", "examples", "docs")
ROOT, HALL = "__init__.py", "lokr_core/__init__.py"
DOORS = (ROOT, "lokr_core/cli/__main__.py")  # run by a host or by Python, imported by nobody
LONG_FUNCTION, LONG_FILE = 40, 300
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (*FUNCTION, ast.ClassDef, ast.Module)


@dataclass(frozen=True)
class Source:
    """A Python file, read once; ``path`` is relative to the checkout, whose own folder is "."."""

    path: str
    room: str
    top: str  # the room's first folder
    kind: str  # face, private or open
    text: str
    statements: list[ast.stmt]  # at module level
    nodes: list[ast.AST]

    @staticmethod
    def read(root: Path, path: str) -> Source:
        room, _, name = ("./" * ("/" not in path) + path).rpartition("/")
        kind = "face" if name == "__init__.py" else "private" if name.startswith("_") else "open"
        tree = ast.parse(text := (root / path).read_text(encoding="utf-8"), path)
        return Source(path, room, room.split("/")[0], kind, text, tree.body, list(ast.walk(tree)))

    @cached_property
    def code(self) -> set[int]:
        """The numbers of the lines that are neither blank, nor comments alone, nor docstrings."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        lines = {n for t in tokens if t.type not in NO_CODE for n in range(t.start[0], t.end[0] + 1)}
        blank = {n for n, line in enumerate(self.text.split("\n"), 1) if not line.strip()}
        return lines - blank - {n for node in self.nodes for n in _docstring(node)}

    @cached_property
    def public(self) -> list[str] | None:
        """The names in ``__all__``, None without one."""
        found = [n.value for n in self.statements if ast.unparse(n).startswith(("__all__ = ", "__all__ += "))]
        constants = [n.value for value in found for n in ast.walk(value) if isinstance(n, ast.Constant)]
        return [name for name in constants if isinstance(name, str)] if found else None

    @cached_property
    def lazy(self) -> set[ast.AST]:
        """What the one lazy door holds, a module-level ``__getattr__`` of ``lokr_core/__init__.py``."""
        doors = [n for n in self.statements if isinstance(n, FUNCTION) and n.name == "__getattr__"]
        return {node for door in doors for node in ast.walk(door)} if self.path == HALL else set()


Sources = Mapping[str, Source]
Arrows = Mapping[str, set[str]]


@dataclass(frozen=True)
class Section:
    """A table; ``counts`` says what exactly it counts."""

    title: str
    counts: str
    columns: tuple[str, ...]
    rows: list[tuple]

    def __str__(self) -> str:
        cells = [[str(cell) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        aligned = [str.ljust if isinstance(cell, str) else str.rjust for cell in (self.rows or [self.columns])[0]]
        lines = ["  ".join(a(c, w) for a, c, w in zip(aligned, row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([f"## {self.title}", self.counts, "", *(lines if self.rows else ["(none)"])])


def sections(root: Path) -> Iterator[Section]:
    paths = listed(root)
    sources = {path: Source.read(root, path) for path in paths if PRODUCT.fullmatch(path)}
    graph = arrows(sources)
    for part in (_rooms, _arrows, _shape, _past_faces, _public, _functions, _spread_classes, _context):
        yield from part(sources, graph)
    yield from _long_files(root, paths, sources)


def listed(root: Path) -> list[str]:
    """The paths of the files that git tracks, and of new ones that it does not ignore."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sorted({path for path in found.split("\0") if path and (root / path).is_file()})


def imports(source: Source, sources: Sources) -> Iterator[tuple[ast.AST, str | None]]:
    """Each import of one of our modules: the statement, and the module's file, None where there is none."""
    for node in source.nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [(alias.name.split("."), "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = source.path.split("/")[: -node.level] if node.level else []
            names = [(here + (node.module.split(".") if node.module else []), alias.name) for alias in node.names]
        for base, name in names:
            if getattr(node, "level", 0) or base[0] == "lokr_core":
                file = _file_of(base, sources)
                # From outside, a face's name hides the module of that name: lokr_core.resolve is a function.
                hidden = not name or (file not in (None, source.path) and name in (sources[file].public or ()))
                yield node, file if hidden else _file_of([*base, name], sources) or file


def _file_of(parts: list[str], sources: Sources) -> str | None:
    package = "/".join([*parts, "__init__.py"])
    return next((file for file in (package, "/".join(parts) + ".py") if file in sources), None)


def arrows(sources: Sources) -> dict[str, set[str]]:
    """For each file the files that it imports, the lazy door left out."""
    found = {s.path: {file for node, file in imports(s, sources) if node not in s.lazy} for s in sources.values()}
    return {path: files - {path, None} for path, files in found.items()}


def circles(graph: Arrows) -> list[list[str]]:
    """The strongly connected components of more than one member."""
    reach = {start: _reached(start, graph) for start in graph}
    found = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph}
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def _reached(start: str, graph: Arrows) -> set[str]:
    seen, ahead = set(), {start}
    while ahead:
        seen |= (ahead := {b for a in ahead for b in graph[a]} - seen)
    return seen


def longest_chain(graph: Arrows) -> list[str]:
    """The longest path; a circle is one step of it, its members joined by +."""
    steps = {path: path for path in graph} | {p: " + ".join(circle) for circle in circles(graph) for p in circle}
    after = {step: {steps[b] for a in graph if steps[a] == step for b in graph[a]} - {step} for step in steps.values()}

    @cache
    def chain(step: str) -> list[str]:
        return [step, *max(map(chain, sorted(after[step])), key=len, default=[])]

    return max(map(chain, sorted(after)), key=len, default=[])


def _groups(sources: Sources, key: str) -> Iterator[tuple[str, list[Source]]]:
    for group in sorted({getattr(source, key) for source in sources.values()}):
        yield group, [source for source in sources.values() if getattr(source, key) == group]
    yield "all", list(sources.values())


def _docstring(node: ast.AST) -> range:
    documented = isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None
    return range(node.body[0].lineno, node.body[0].end_lineno + 1) if documented else range(0)


def _rooms(sources: Sources, _: Arrows) -> Iterator[Section]:
    rows = []
    for room, inside in _groups(sources, "room"):
        lines, code = sum(len(s.text.splitlines()) for s in inside), sum(len(s.code) for s in inside)
        rows.append((room, len(inside), sum(s.kind != "face" for s in inside), lines, code))
    counts = "Python files by folder (lokr_core's own: the hall); code: lines not blank, comments alone or docstrings."
    yield Section("Rooms", counts, ("room", "files", "without __init__", "lines", "code"), rows)


def _arrows(sources: Sources, graph: Arrows) -> Iterator[Section]:
    pairs = {(sources[a].room, sources[b].room) for a in graph for b in graph[a]}
    rows = [("between rooms", sum(a != b for a, b in pairs)), ("between files", sum(map(len, graph.values())))]
    counts = "Ordered pairs with an import, those inside functions and for type checkers too, the lazy door's apart."
    yield Section("Arrows", counts, ("arrows", "count"), rows)
    found = [(s, n, file) for s in sources.values() for n, file in imports(s, sources) if file is None or n in s.lazy]
    rows = [(f"{s.path}:{n.lineno}", ast.unparse(n), file or "no such file") for s, n, file in found]
    counts = "Imports counted nowhere else: in lokr_core's module-level __getattr__ (the lazy door), and of no file."
    yield Section("Imports apart", counts, ("place", "import", "file"), rows)


def _shape(sources: Sources, graph: Arrows) -> Iterator[Section]:
    from_root = {path: graph[path] for path in {ROOT, *_reached(ROOT, graph)}}
    inside = {path: graph[path] - set(DOORS) for path in graph if path not in DOORS}
    chains = map(longest_chain, (from_root, inside))
    rows = [(len(chain), " → ".join(path.replace(".py", "") for path in chain)) for chain in chains]
    counts = "Files in the longest chain from the root's __init__, and without the doors; a circle counts as one."
    yield Section("Longest chains", counts, ("files", "chain"), rows)
    rooms = {room: {sources[b].room for s in group for b in graph[s.path]} for room, group in _groups(sources, "room")}
    graphs = {"files": graph, "rooms": rooms}
    rows = [(of, len(circle), ", ".join(circle)) for of, each in graphs.items() for circle in circles(each)]
    counts = "Strongly connected components of more than one member, of the arrows between files and between rooms."
    yield Section("Circles", counts, ("of", "members", "which"), rows)


def _past_faces(sources: Sources, graph: Arrows) -> Iterator[Section]:
    inner = [s for s in sources.values() if s.kind != "face" and f"{s.room}/__init__.py" in sources]
    by = [(s, sum(s.path in graph[a] and not a.startswith(f"{s.room}/") for a in graph)) for s in inner]
    rows = [(s.path, s.kind, arrows) for s, arrows in by if arrows]
    sums = f"{len(rows)}, {sum(row[1] == 'private' for row in rows)} private, by {sum(row[2] for row in rows)} arrows"
    counts = f"Files of a package that files outside its folder import directly, not from its __init__: {sums}."
    yield Section("Past the faces", counts, ("file", "kind", "reached by"), rows)


def _public(sources: Sources, _: Arrows) -> Iterator[Section]:
    faces = {s.room: set(s.public or ()) for s in sources.values() if s.kind == "face"}
    rows = []
    for top, inside in _groups(sources, "top"):
        names, files = sum(len(s.public or ()) for s in inside), sum(s.public is not None for s in inside)
        without = sum(s.public is None and s.kind == "open" for s in inside)
        lost = (s.kind == "open" and name not in faces.get(s.room, ()) for s in inside for name in s.public or ())
        rows.append((top, names, files, without, sum(lost)))
    counts = (
        "Names in __all__ of all files, __init__ too; of the open files, neither private nor __init__: those without "
        "__all__, and the names in theirs that the __all__ of their folder's __init__ lacks (not through a face)."
    )
    yield Section("Public names", counts, ("folder", "names", "files with", "open without", "not through a face"), rows)


def _functions(sources: Sources, _: Arrows) -> Iterator[Section]:
    rows, long = [], []
    for top, inside in _groups(sources, "top"):
        found = [(s, n) for s in inside for n in s.nodes if isinstance(n, FUNCTION)]
        body = [len(s.code & set(range(n.body[0].lineno, n.end_lineno + 1))) for s, n in found]
        whole = [n.end_lineno - n.lineno + 1 - len(_docstring(n)) for _, n in found]
        over = [sum(size > LONG_FUNCTION for size in sizes) for sizes in (body, whole)]
        rows.append((top, len(found), statistics.median_low(body or [0]), *over))
        long = [(f"{s.path}:{n.lineno}", n.name, b, w) for (s, n), b, w in zip(found, body, whole, strict=True)]
    counts = (
        "Functions, methods and inner ones; body: its lines of code; whole: from def to the end with signature, blank "
        f"lines and comments, without docstring; over: more than {LONG_FUNCTION} lines."
    )
    yield Section("Functions", counts, ("folder", "functions", "median body", "body over", "whole over"), rows)
    long = sorted((row for row in long if max(row[2:]) > LONG_FUNCTION), key=lambda row: -row[3])
    counts = f"Those of more than {LONG_FUNCTION} lines by either measure."
    yield Section("Long functions", counts, ("place", "name", "body", "whole"), long)


def _spread_classes(sources: Sources, _: Arrows) -> Iterator[Section]:
    where = {n.name: s for s in sources.values() for n in s.nodes if isinstance(n, ast.ClassDef)}
    rows = [(f"class {name}", source.path) for name, source in where.items() if name.endswith("Mixin")]
    for source in sources.values():
        targets = [t for n in source.statements for t in getattr(n, "targets", ()) if isinstance(t, ast.Attribute)]
        found = [t for t in targets if where.get(ast.unparse(t.value), source) is not source]
        rows += [(f"{ast.unparse(t)} =", f"{source.path}:{t.lineno}") for t in found]
    counts = "Classes named *Mixin, and attributes that a file sets, at module level, of a class of another file."
    yield Section("Spread classes", counts, ("what", "place"), rows)


def _context(sources: Sources, _: Arrows) -> Iterator[Section]:
    starts = tuple(f"error.{part} = error.{part} or " for part in ("module", "file"))
    assigned = [(s, n, ast.unparse(n)) for s in sources.values() for n in s.nodes if isinstance(n, ast.Assign)]
    rows = [(f"{s.path}:{n.lineno}", text) for s, n, text in assigned if text.startswith(starts)]
    counts = f"Statements error.module = error.module or …, error.file = error.file or …: {len(rows)}."
    yield Section("Context by hand", counts, ("place", "statement"), rows)


def _long_files(root: Path, paths: list[str], sources: Sources) -> Iterator[Section]:
    pages = [p for p in paths if p.endswith((".py", ".js")) or (p.startswith("docs/") and p.endswith(".md"))]
    lines = {p: len((root / p).read_text(encoding="utf-8").splitlines()) for p in pages}
    kinds = {p: "tests and pages" if p.split("/")[0] in NOT_PRODUCT else "product" for p in pages}
    kinds |= {p: "tables of names" for p in pages if p.startswith("lokr_core/names/") and _is_table(sources[p])}
    for kind in ("product", "tests and pages", "tables of names"):
        rows = [(p, n) for p, n in lines.items() if n > LONG_FILE and kinds[p] == kind]
        counts = f"*.py, *.js and docs/*.md of more than {LONG_FILE} lines, {kind}: {len(rows)}."
        yield Section(f"Long files: {kind}", counts, ("file", "lines"), sorted(rows, key=lambda row: -row[1]))


def _is_table(source: Source) -> bool:
    """Whether more than half of the file's code is values of names at module level."""
    data = (node for node in source.statements if isinstance(node, (ast.Assign, ast.AnnAssign)))
    lines = {n for node in data for n in range(node.lineno, node.end_lineno + 1)}
    return 2 * len(lines & source.code) > len(source.code)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description="Counts of a checkout's structure.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    arguments = parser.parse_args()
    found = {section.title: section for section in sections(arguments.folder.resolve())}
    as_json = json.dumps(found, indent=2, ensure_ascii=False, default=asdict)
    print(as_json if arguments.json else "\n\n".join(map(str, found.values())))


if __name__ == "__main__":
    main()
