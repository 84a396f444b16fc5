"""Where LoKr Train writes: the adapter in the loras folder, and beside it the checkpoint to resume from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths

from ..lokr_core.adapter import Adapter
from ..lokr_core.errors import LoKrFileError, LoKrValueError
from ..lokr_core.formats import load_adapter
from ..lokr_core.saving import save_adapter
from ..lokr_core.training import TrainingSession

# Not one of ComfyUI's endings for models, so that no loader offers a checkpoint.
_STATE_ENDING = ".training"
_MARK = "lokr.trained_by"
_NODE = "LoKrTrain"


@dataclass(frozen=True)
class TrainedFile:
    """The two files of a training. name: as the loaders offer it."""

    name: str
    path: Path

    @classmethod
    def called(cls, name: str) -> TrainedFile:
        """The file of that name, with or without its ending, in the first loras folder.

        Raises LoKrValueError if the name is empty or leads out of the folder, LoKrFileError if another program wrote a
        file of that name.
        """
        folder = folder_paths.get_folder_paths("loras")[0]
        name = name.strip().replace("\\", "/").removesuffix(".safetensors")
        path = Path(folder, f"{name}.safetensors")
        if not name.rpartition("/")[2].strip(". ") or not folder_paths.is_within_directory(folder, str(path)):
            raise LoKrValueError(
                "This is not a name of a file in the loras folder", expected="style, or people/face", found=repr(name)
            )
        found = cls(f"{name}.safetensors".replace("/", os.sep), path)
        if path.exists() and not found.state.exists() and load_adapter(path).metadata.get(_MARK) != _NODE:
            raise LoKrFileError(
                "Another program wrote a file of this name, which training would replace",
                file=path,
                hint="choose another name, or move the file away",
            )
        return found

    @property
    def state(self) -> Path:
        """The checkpoint."""
        return self.path.with_suffix(_STATE_ENDING)

    def save(self, adapter: Adapter, session: TrainingSession, same: Mapping[str, Any]) -> None:
        """Write both, the checkpoint last: if interrupted before it, the steps since the one before are repeated."""
        session.check_finite()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {_MARK: _NODE, "ss_steps": str(session.steps), "ss_sd_model_name": str(same["model"])}
        save_adapter(adapter, self.path, metadata=metadata)
        session.save(self.state, same)
