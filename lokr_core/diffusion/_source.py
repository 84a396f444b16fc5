"""The components of a model on disk: a pipeline's folder, or a single file and the folder of its configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._files import read_header
from ..errors import LoKrFileError
from ..training import needed
from ._family import FAMILIES, Family, family_of

_INDEX = "model_index.json"
# Of diffusers' names for the models in a single file.
_TYPES = {"v1": "sd", "v2": "sd", "xl_base": "sdxl", "sd3": "sd3", "sd35_large": "sd3", "sd35_medium": "sd3"}
_TYPES |= {"flux-dev": "flux", "flux-schnell": "flux"}
# With which the names of other models than the denoiser begin in a single file.
_PREFIXES: dict[str, str | tuple[str, ...]] = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.", "text_encoders."),
}
# Of a repository, what has no weights.
_SMALL = ("*.json", "*/*.json", "*/*.txt", "*/*.model")


@dataclass(frozen=True)
class Source:
    """A model on disk.

    path: a folder of a diffusers pipeline, or a .safetensors file
    folder: of the configuration and the tokenizers, ``path`` itself if that is a folder
    """

    path: Path
    folder: Path
    family: Family

    @property
    def is_file(self) -> bool:
        return self.path != self.folder

    def component(self, name: str, dtype: torch.dtype = torch.float32) -> Any:
        """One component of the pipeline; None if the pipeline has none of this name.

        Raises LoKrFileError if it cannot be loaded.
        """
        held = _index(self.folder)
        if held.get(name, [None, None])[0] is None:
            return None
        others: dict[str, None] = {other: None for other, kind in held.items() if isinstance(kind, list)}
        del others[name]
        options = dict(dtype=dtype, local_files_only=True, **others)
        is_model = name in self.family.components
        try:
            with _quiet():
                in_file = is_model and self._file_has(name)
                return self._from_file(name, options) if in_file else self._from_folder(name, options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise LoKrFileError(
                f"{name} cannot be loaded: {error}",
                file=self.path if is_model else self.folder,
                expected=f"a {self.family.name} model for diffusers {needed('diffusers').__version__}",
                hint="download it again; a quantised model needs its library, and mostly a GPU; a single file may need "
                "the --config of another version of the model",
            ) from error

    def _file_has(self, name: str) -> bool:
        """Whether the file has tensors of a model of this kind; one of the denoiser alone has no other."""
        prefixes = _PREFIXES.get(name.rstrip("_23"), "")
        return self.is_file and any(tensor.startswith(prefixes) for tensor in read_header(self.path).tensors)

    def _from_file(self, name: str, options: Mapping[str, Any]) -> Any:
        diffusers = needed("diffusers", "0.42")
        missing = diffusers.loaders.single_file_utils.SingleFileComponentError
        try:
            pipeline = getattr(diffusers, self.family.pipeline)
            return getattr(pipeline.from_single_file(str(self.path), config=str(self.folder), **options), name)
        except missing:  # such as T5: the folder may have it
            return self._from_folder(name, options)

    def _from_folder(self, name: str, options: Mapping[str, Any]) -> Any:
        diffusers = needed("diffusers", "0.42")
        files = [file.name for file in (self.folder / name).glob("*.safetensors")]
        variant = "fp16" if files and all(".fp16" in file for file in files) else None
        pipeline = getattr(diffusers, self.family.pipeline)
        return getattr(pipeline.from_pretrained(self.folder, variant=variant, **options), name)

    def stamp(self, names: tuple[str, ...]) -> list:
        """What tells these components from others': names, sizes and times of their files."""
        files = [self.path] if self.is_file else []
        files += [file for name in names for file in sorted((self.folder / name).glob("*"))]
        return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]


def source_of(path: str | os.PathLike, config: str | os.PathLike | None = None) -> Source:
    """The model that ``path`` stands for.

    path: a folder of a diffusers pipeline, or a .safetensors file
    config: for a file, the folder of a pipeline of the same version: its configuration and tokenizers, and any models
        that the file lacks. None: from the Hugging Face hub

    Raises LoKrFileError if it is neither, of another family, or has no configuration; LoKrError if diffusers is not
    installed.
    """
    path = Path(path)
    if path.is_dir():
        return Source(path, path, family_of(_index(path).get("_class_name", "unknown"), path))
    kind, repository = _kind_of(path)
    family = FAMILIES[kind]
    folder = _from_hub(path, repository) if config is None else Path(config)
    found = family_of(_index(folder).get("_class_name", "unknown"), folder)
    if found != family:
        raise LoKrFileError(
            "The configuration is of another model", file=folder, expected=family.name, found=found.name
        )
    return Source(path, folder, family)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and the advice of diffusers and transformers, of which a component has several."""
    with ExitStack() as restored:
        for log in (needed(f"{package}.utils.logging") for package in ("diffusers", "transformers")):
            restored.callback(log.set_verbosity, log.get_verbosity())
            log.set_verbosity_error()
            if log.is_progress_bar_enabled():
                restored.callback(log.enable_progress_bar)
                log.disable_progress_bar()
        yield


def _index(folder: Path) -> dict[str, Any]:
    """The entries of the folder's model_index.json."""
    try:
        entries = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        return dict(entries)
    except (OSError, ValueError, TypeError) as error:
        raise LoKrFileError(
            f"The folder's index cannot be read: {error}",
            file=folder,
            expected=f"the folder of a diffusers pipeline, with a {_INDEX}",
            hint='save one with pipeline.save_pretrained("FOLDER"), or give a .safetensors file and its --config',
        ) from None


def _kind_of(path: Path) -> tuple[str, str]:
    """(row of ``FAMILIES``, the hub's repository of the same version) of a single file, by its tensors' shapes."""
    utilities = needed("diffusers.loaders.single_file_utils")
    shapes = {name: torch.empty(info.shape, device="meta") for name, info in read_header(path).tensors.items()}
    kind = utilities.infer_diffusers_model_type(shapes)
    # diffusers takes what it does not know for Stable Diffusion 1.
    known = kind != "v1" or any(name.startswith("model.diffusion_model.input_blocks.") for name in shapes)
    if kind not in _TYPES or not known:
        expected = ", ".join(family.name for family in FAMILIES.values())
        found = kind if known else "none of these"
        raise LoKrFileError("A model of this kind cannot be trained", file=path, expected=expected, found=found)
    return _TYPES[kind], utilities.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]


def _from_hub(path: Path, repository: str) -> Path:
    """The folder with the configuration and the tokenizers of a repository of the Hugging Face hub."""
    hub = needed("huggingface_hub")
    try:
        return Path(hub.snapshot_download(repository, allow_patterns=list(_SMALL)))
    except Exception as error:  # of the hub's client, of its HTTP library or of the network
        raise LoKrFileError(
            f"The file has no configuration and tokenizers of its own, and the hub cannot be asked: {error}",
            file=path,
            expected=f"the folder of {repository}: its .json files and tokenizers",
            hint="give that folder with --config FOLDER, or connect to the network",
        ) from None
