"""Models on disk, read and written one tensor at a time: files, shards and folders of diffusers pipelines."""

from ._held import Held, HeldCheckpoint
from ._open import Checkpoint, Part, Stored
from ._shards import INDEX, SHARD, shards_of
from ._write import Change, replacing_folder, write_checkpoint

__all__ = [
    "INDEX",
    "SHARD",
    "Change",
    "Checkpoint",
    "Held",
    "HeldCheckpoint",
    "Part",
    "Stored",
    "replacing_folder",
    "shards_of",
    "write_checkpoint",
]
