"""An ``Adapter`` written to a file, in the names and the form of a format."""

from ..conversion import Regrouped
from ..modules import SPELLINGS, UP_DOWN, Spelling
from ._book import Book, NamedModule, component_of
from ._named import Named, module_tensors, named, save_named
from ._peft_form import peft_layout
from ._regroup import regroup
from ._write import rename, save_adapter

__all__ = [
    "Book",
    "Named",
    "NamedModule",
    "Regrouped",
    "SPELLINGS",
    "Spelling",
    "UP_DOWN",
    "component_of",
    "module_tensors",
    "named",
    "peft_layout",
    "regroup",
    "rename",
    "save_adapter",
    "save_named",
]
