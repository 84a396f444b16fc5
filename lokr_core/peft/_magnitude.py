"""DoRA's magnitude under the names that trainers give it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import LoKrShapeError

MAGNITUDE = "lora_magnitude_vector"


def magnitude_of(tensors: Mapping[str, Tensor], out: int) -> Tensor | None:
    """A module's ``dora_scale``, or its ``lora_magnitude_vector`` as one, (out, 1). Returns None without DoRA.

    tensors: by name; out: rows of the weight

    The magnitude vector is PEFT's and musubi-tuner's LTX-2 fork's: it always has a number for each output, whatever
    its shape ((out,), or (1, out, 1, 1) for a convolution), and W' = V * magnitude / ‖V‖ as with ``dora_scale``. Raises
    LoKrShapeError if it has another number of them.

    >>> import torch
    >>> magnitude_of({"lora_magnitude_vector": torch.ones(1, 8, 1, 1)}, 8).shape
    torch.Size([8, 1])
    """
    vector = tensors.get(MAGNITUDE)
    if vector is None:
        return tensors.get("dora_scale")
    if vector.numel() != out:
        raise LoKrShapeError(
            f"{MAGNITUDE} does not fit the weight's output axis",
            expected=f"{out} numbers",
            found=f"{vector.numel()} numbers, shape {tuple(vector.shape)}",
        )
    return vector.reshape(-1, 1)
