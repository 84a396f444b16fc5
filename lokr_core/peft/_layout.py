"""PEFT's names and layout: prefix, file names, how modules are named, which factors are whole.

Facts of PEFT 0.21, with the file that each is from (paths below ``peft/``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from math import ceil

from ..errors import LoKrValueError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers stores the configuration in a file's metadata."""


def is_lokr(entries: Mapping[str, object]) -> bool:
    """Whether a configuration is one of LoKr; PEFT also writes ``PeftType.LOKR``.

    >>> is_lokr({"peft_type": "PeftType.LOKR"}), is_lokr({"peft_type": "LORA"})
    (True, False)
    """
    return str(entries.get("peft_type", "LOKR")).rpartition(".")[2].upper() == "LOKR"


def names_module(names: Collection[str] | str, module: str) -> bool:
    """Whether ``names`` name the module: a regular expression of the whole name, or names, each whole or the end of
    it behind a dot (``tuners/tuners_utils.py: check_target_module_exists``).

    >>> [names_module(["to_q"], name) for name in ("to_q", "attn.to_q", "attn.into_q")]
    [True, True, False]
    """
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    parts = module.split(".")
    return any(".".join(parts[start:]) in names for start in range(len(parts)))


def matching_keys(patterns: Collection[str], module: str) -> list[str]:
    """The keys of ``rank_pattern`` or ``alpha_pattern`` that match the module, in their order; the first counts
    (``utils/other.py: get_pattern_key``).

    >>> matching_keys(["to_k", "attn.to_q", "to_q"], "blocks.0.attn.to_q")
    ['attn.to_q', 'to_q']
    """
    return [pattern for pattern in patterns if regex(pattern, end=True).match(module)]


@lru_cache(maxsize=4096)
def regex(pattern: str, end: bool = False) -> re.Pattern[str]:
    """The pattern compiled, or one for the end of a module's name. Raises LoKrValueError if it is not a regular
    expression."""
    try:
        return re.compile(rf"(.*\.)?({pattern})$" if end else pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise LoKrValueError(
            f"{pattern!r} is not a regular expression: {error}", expected="a pattern of module names", found=pattern
        ) from None


def is_whole(r: float, shape: Sequence[int]) -> bool:
    """Whether PEFT stores a factor of ``shape`` (rows, cols, ...) whole at rank ``r``: from half of its longer side on
    (``tuners/lokr/layer.py: update_layer``). For w1 only with ``decompose_both``; without, w1 is always whole.

    >>> is_whole(3, (8, 4)), is_whole(4, (8, 4))
    (False, True)
    """
    return r >= max(shape[:2]) / 2


def whole_rank(*shapes: Sequence[int]) -> int:
    """The lowest rank at which PEFT stores factors of all these shapes whole."""
    return max(1, *(ceil(max(shape[:2]) / 2) for shape in shapes))


def is_reversed(w2_rank: int | None, w2_shape: Sequence[int]) -> bool:
    """Whether PEFT multiplies the factors as w2 ⊗ w1: a Conv1d whose w2 is whole, (k, n, kernel).

    PEFT 0.21 (``tuners/lokr/layer.py: make_kron``) appends axes to w1 for a w2 of four axes only. For three,
    ``torch.kron`` puts the missing axis in front, and the reshape to the weight's shape makes w2 the outer factor.
    """
    return w2_rank is None and len(w2_shape) == 3
