"""What ComfyUI and the page read in other languages, made of one file per language: ``python locales/make.py``.

A language's file, ``locales/LANGUAGE.json``, has English -> that language: "nodes" for the nodes' names and tooltips
("NODE/English" where a word means another thing), "page" for what web/ says, "told" for what Python says and the page
shows. ``{names}`` stand for what differs; a number in a node's text is ``{number}``. Of these are made
``locales/LANGUAGE/nodeDefs.json``, which ComfyUI's page reads, and ``web/texts/LANGUAGE.json``. English itself is in
the code; ``locales/en`` has what the nodes say.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TEXTS = FOLDER.parent / "web" / "texts"


def languages() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def source(language: str) -> dict[str, dict[str, str]]:
    return _read(FOLDER / f"{language}.json")


def translated(text: str, table: dict[str, str], node: str = "") -> str:
    """``text`` by the table, if need be with its number as ``{number}``. Raises KeyError if the table lacks it.

    node: whose text it is: ``NODE/TEXT`` of the table comes first, for a word with two meanings
    """
    for key in (f"{node}/{text}", text):
        if key in table:
            return table[key]
    numbers = re.findall(r"\d+", text)
    if len(set(numbers)) != 1:
        raise KeyError(text)
    return table[re.sub(r"\d+", "{number}", text)].replace("{number}", numbers[0])


def node_texts(language: str) -> dict:
    """The English nodes' texts in another language."""
    table = source(language)["nodes"]

    def walk(entry: object, node: str) -> object:
        if isinstance(entry, str):
            return translated(entry, table, node)
        return {key: walk(one, node) for key, one in entry.items()}

    return {node: walk(entry, node) for node, entry in _read(FOLDER / "en" / "nodeDefs.json").items()}


def page_texts(language: str) -> dict:
    return {key: source(language)[key] for key in ("page", "told")}


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    for language in languages():
        for path, texts in (
            (FOLDER / language / "nodeDefs.json", node_texts(language)),
            (TEXTS / f"{language}.json", page_texts(language)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(texts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
