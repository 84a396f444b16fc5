"""A module's name in a file, taken apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModuleName:
    """A module's name in a file, taken apart.

    full: as in the file; path: the name behind the prefix; flattened: whether ``path`` has "_" in place of dots
    component: the part of a pipeline that the prefix names: "unet" (any denoiser), "te", "te1" to "te4", "" if unknown
    expert: "high" or "low", of a denoiser with an expert for high noise and one for low; "" for any other
    """

    full: str
    path: str
    component: str = ""
    flattened: bool = False
    expert: str = ""
