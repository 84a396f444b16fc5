"""The adapter files of a folder, by their headers."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ..display import columns, human_bytes, shortened
from ..errors import LoKrError
from ._outline import outline

_HEADING = ("file", "holds", "base model", "modules", "size")


@dataclass(frozen=True)
class FolderFile:
    """A file of a folder: what ``Outline`` tells of it, or ``problem``, why it cannot be read.

    file: its path below the folder; modules: how many are LoKr
    """

    file: str
    bytes: int
    kind: str = ""
    base_model: str = ""
    producer: str = ""
    modules: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Folder:
    """The ``.safetensors`` files of a folder and those below it."""

    path: Path
    files: list[FolderFile]

    def as_dict(self) -> dict:
        """For a program, ready for JSON."""
        return {"folder": str(self.path), "files": [asdict(each) for each in self.files]}

    def text(self) -> str:
        """For a person: a table that fits the terminal, and the files that cannot be read."""
        known = [each for each in self.files if not each.problem]
        cells = [(e.file, e.kind, e.base_model or "-", f"{e.modules:,}", human_bytes(e.bytes)) for e in known]
        rows = [_HEADING, *cells] if cells else []
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for column, least in ((0, 20), (1, 8), (2, 12)):  # what may be cut, and to how little
            over = sum(widths) + 2 * (len(widths) - 1) - columns() if widths else 0
            if over > 0:
                widths[column] = max(min(least, widths[column]), widths[column] - over)
        table = [_row(row, widths) for row in rows]
        bad = [f"{each.file}: {each.problem}" for each in self.files if each.problem]
        count = f"{len(known)} of {len(self.files)} files can be read" if bad else f"{len(known)} files"
        return "\n".join([*table, "", count, *bad] if table else [count, *bad])


def _row(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [shortened(cell, width) for cell, width in zip(row, widths, strict=True)]
    left = [cell.ljust(width) for cell, width in zip(cells[:3], widths, strict=False)]
    right = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
    return "  ".join((*left, *right))


def is_adapter_folder(path: str | os.PathLike) -> bool:
    """Whether a folder is one adapter: PEFT's, or with a single ``.safetensors`` file."""
    folder = Path(path)
    found = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    return (folder / "adapter_config.json").is_file() or len(found) == 1


def inspect_folder(path: str | os.PathLike) -> Folder:
    """The files of the folder ``path``, by their headers alone; one that cannot be read says why.

    >>> import tempfile
    >>> print(inspect_folder(tempfile.mkdtemp()).text())
    0 files
    """
    folder = Path(path)
    return Folder(folder, [_file(each, folder) for each in sorted(folder.rglob("*.safetensors"))])


def _file(path: Path, folder: Path) -> FolderFile:
    name, size = path.relative_to(folder).as_posix(), path.stat().st_size
    try:
        found = outline(path)
    except LoKrError as error:
        return FolderFile(name, size, problem=error.problem)
    kind = "no adapter" if found.kind[:1].isdigit() else found.kind  # a number of tensors that are no adapter's
    return FolderFile(name, size, kind, found.base_model, found.producer, found.modules)
