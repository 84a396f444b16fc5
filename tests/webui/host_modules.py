"""A stand-in for the parts of A1111's ``modules`` that the library and the infotext use.

``test_host_modules.py`` holds its signatures against the real ones where an A1111 is.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

_CACHES: dict[str, dict] = {}


class errors(ModuleType):
    @staticmethod
    def print_error_explanation(message):
        print(message, file=sys.stderr)


class cache(ModuleType):
    @staticmethod
    def cache(subsection):
        return _CACHES.setdefault(subsection, {})


class hashes(ModuleType):
    """As the host's: kept by title, taken of what stands behind the header."""

    @staticmethod
    def sha256_from_cache(filename, title, use_addnet_hash=False):
        return cache.cache("hashes-addnet").get(title)

    @staticmethod
    def sha256(filename, title, use_addnet_hash=False):
        assert use_addnet_hash
        known = cache.cache("hashes-addnet")
        if title not in known and not sys.modules["modules.shared"].cmd_opts.no_hashing:
            with open(filename, "rb") as file:
                known[title] = hashes.addnet_hash_safetensors(file)
        return known.get(title)

    @staticmethod
    def addnet_hash_safetensors(b):
        b.seek(0)
        b.seek(8 + int.from_bytes(b.read(8), "little"))
        return hashlib.sha256(b.read()).hexdigest()


class script_callbacks(ModuleType):
    @staticmethod
    def on_infotext_pasted(callback, *, name=None):
        """Nothing is pasted here: the tests call ``pasted`` themselves."""


def install(monkeypatch: pytest.MonkeyPatch, models: Path) -> SimpleNamespace:
    """Put the stand-in in the place of ``modules``, ``models`` being its folder of models; returns its options."""
    _CACHES.clear()
    shared, paths = ModuleType("shared"), ModuleType("paths")
    shared.opts = SimpleNamespace(lora_preferred_name="Alias from file")
    shared.cmd_opts = SimpleNamespace(
        lokr_dir=None, lora_dir=str(models / "Lora"), lyco_dir_backcompat=str(models / "LyCORIS"), no_hashing=False
    )
    paths.models_path = str(models)
    parts = {"shared": shared, "paths": paths}
    parts |= {part.__name__: part(part.__name__) for part in (errors, cache, hashes, script_callbacks)}
    host = ModuleType("modules")
    monkeypatch.setitem(sys.modules, "modules", host)
    for name, part in parts.items():
        setattr(host, name, part)
        monkeypatch.setitem(sys.modules, f"modules.{name}", part)
    for name in ("library", "listing", "entry", "settings", "infotext", "presets"):  # imported anew, onto this stand-in
        monkeypatch.delitem(sys.modules, f"webui.{name}", raising=False)
        if "webui" in sys.modules:
            monkeypatch.delattr(sys.modules["webui"], name, raising=False)
    return shared.opts
