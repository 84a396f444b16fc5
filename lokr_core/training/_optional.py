"""Packages that are needed for some trainings only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import LoKrError


def needed(package: str, least: str = "") -> Any:
    """The package, imported. Raises LoKrError, with the command that installs it, if it cannot be imported.

    least: its oldest version that is known to work
    """
    try:
        return import_module(package)
    except ImportError as error:
        hint = f'pip install "{package}{">=" if least else ""}{least}"'
        raise LoKrError(f"This needs {package}, which cannot be imported: {error}", hint=hint) from None
