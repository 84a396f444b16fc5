"""A LoKr file at other ranks, from its factors."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..adapter import Adapter
from ..conversion import LOKR, Keep, resized
from ..display import Progress
from ..errors import LoKrValueError, blame
from ..formats import load_adapter
from ..kronecker import kron_norm
from ..saving import save_adapter
from ._about import CONVERSION_KEY, dtype_of, format_of, note_of, without_hashes
from ._converted import Converted, Made
from ._size import ranks_within


def resize_file(
    path: str | os.PathLike,
    out: str | os.PathLike,
    keep: Keep,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write the LoKr file ``path`` with its low-rank, Tucker and whole factors at other ranks to ``out``.

    W2 of each module is replaced by the nearest of the rank that ``keep`` asks for, W1 too if it is low-rank; a factor
    that would not get smaller stays as it is. Names, scalings, DoRA and all other tensors stay.

    Returns what is kept of each module. Raises LoKrValueError if ``keep`` asks for no change.
    """
    adapter = load_adapter(path)
    if keep == Keep():
        raise LoKrValueError("There is nothing to resize to", expected="a rank, an energy, an error or a size")
    dtype = dtype or dtype_of(adapter)
    before = Path(path).stat().st_size if Path(path).is_file() else 0
    found = Converted([], format_of(adapter), adapter.foreign.tensors, before=before, itemsize=dtype.itemsize)
    ranks = _shared(adapter, keep, dtype.itemsize, found)
    for number, (module, weights) in enumerate(adapter.items()):
        with blame(file=path, module=module):
            one = resized(weights, keep if ranks is None else Keep(rank=ranks[module]))
        squared = (weights.scaling * kron_norm(weights.w1, weights.w2)) ** 2
        found.modules.append(Made(adapter.names[module], one.weights, one.energy, squared, (module,), LOKR))
        adapter.modules[module] = one.weights
        if progress:
            progress(number + 1, len(adapter))
    if all(made.energy == 1 for made in found.modules):
        found.notes.append("nothing is lost: each module has that rank already, or fewer numbers as it is")
    found.note_rank_above(keep)
    adapter.metadata = without_hashes(adapter.metadata)
    save_adapter(adapter, out, dtype, {CONVERSION_KEY: note_of(adapter, "resized", found.energy)})
    return found


def _shared(adapter: Adapter, keep: Keep, itemsize: int, found: Converted) -> dict[str, int] | None:
    """The rank of each module's W2 if all together are to have a size, else None."""
    if keep.size is None:
        return None
    others = sum(tensor.numel() * tensor.element_size() for tensor in found.other.values())
    return dict(zip(adapter, ranks_within(list(adapter.values()), keep.size - others, itemsize), strict=True))
