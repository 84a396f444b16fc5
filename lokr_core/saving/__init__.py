"""An ``Adapter`` written to a file, in the names and the form of a format."""

from ..modules import SPELLINGS, Spelling
from ._named import UP_DOWN, Named, module_tensors, named, save_named
from ._peft_form import peft_layout
from ._regroup import Regrouped, regroup
from ._rename import Book, NamedModule, component_of, rename
from ._write import save_adapter

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
