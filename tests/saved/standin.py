"""What ComfyUI would learn of the project's nodes, without a ComfyUI: ``python standin.py PROJECT`` prints it as JSON.

The project is loaded by its door, ``__init__.py``, as a ComfyUI loads a pack; in the place of ``comfy_api`` stands one
that notes what a schema is made of, and in the place of the host's other modules ones that have every name.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

HOST = (
    "latent_preview",
    "aiohttp",
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "nodes",
    "server",
)
KEPT = ("optional", "default", "min", "max", "step", "multiline", "advanced", "dynamic_prompts", "is_output_list")
"""Of what an input or output says, what a saved workflow or its prompt depends on, or how its widget looks."""


class Anything(type):
    """A class with every name, to derive from, to call, and to decorate with."""

    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})

    def __or__(cls, other):
        return cls

    __ror__ = __or__

    def __call__(cls, *arguments, **named):
        if cls.__init__ is object.__init__ and cls.__new__ is object.__new__:
            return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else object.__new__(cls)
        return super().__call__(*arguments, **named)


class HostModule(ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


class Finder:
    """Finds the host's modules, whichever are asked for."""

    def find_spec(self, name: str, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in HOST else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return HostModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "folder_paths":
            module.models_dir, module.folder_names_and_paths = "/nowhere", {}
            module.get_filename_list = lambda folder: []
        if module.__name__ == "comfy_api.latest":
            module.io = Io()


class Kind:
    """A kind of input and output, such as ``io.Float``."""

    def __init__(self, name: str):
        self.name = name

    def Input(self, id: str, *_: object, **said: object) -> dict:
        options = [o if isinstance(o, (str, dict)) else str(o) for o in said.get("options") or ()]
        return {"id": id, "kind": self.name, **_kept(said), **({"options": options} if "options" in said else {})}

    def Output(self, id: str | None = None, display_name: str | None = None, *_: object, **said: object) -> dict:
        return {"id": id, "kind": self.name, **_kept(said), **({"name": display_name} if display_name else {})}

    def Option(self, key: str, inputs: list[dict]) -> dict:
        """Of a ``DynamicCombo``."""
        return {"key": key, "inputs": inputs}


class Io:
    """``comfy_api.latest.io``."""

    ComfyNode = type("ComfyNode", (), {"hidden": None})
    Hidden, NumberDisplay = Anything("Hidden", (), {}), Anything("NumberDisplay", (), {})
    Schema = staticmethod(dict)

    def __getattr__(self, name: str) -> object:
        return Anything(name, (), {}) if name.startswith("_") or name in ("NodeOutput", "Input") else Kind(name.upper())

    def Custom(self, name: str) -> Kind:
        return Kind(name)


def _kept(said: dict) -> dict:
    return {key: said[key] for key in KEPT if said.get(key) is not None}


def schemas(project: Path) -> dict[str, dict]:
    """Node id -> its inputs and outputs in their order, and what of it matters to a workflow."""
    sys.meta_path.insert(0, Finder())
    spec = importlib.util.spec_from_file_location(
        "pack", project / "__init__.py", submodule_search_locations=[str(project)]
    )
    pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)

    async def nodes() -> list:
        return await (await pack.comfy_entrypoint()).get_node_list()

    found = {}
    for node in asyncio.run(nodes()):
        said = node.define_schema()
        flags = {flag: bool(said.get(flag)) for flag in ("is_output_node", "is_input_list", "is_deprecated")}
        found[said["node_id"]] = {"inputs": said["inputs"], "outputs": said["outputs"], **flags}
    return found


if __name__ == "__main__":
    print(json.dumps(schemas(Path(sys.argv[1]))))
