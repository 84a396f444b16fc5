"""An ``Adapter`` written to a file, in the names and the form of a format."""

from ._peft_form import peft_layout
from ._rename import rename
from ._spellings import SPELLINGS
from ._write import save_adapter

__all__ = ["SPELLINGS", "peft_layout", "rename", "save_adapter"]
