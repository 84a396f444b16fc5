"""``LoKrConfig``: PEFT's fields with PEFT's meaning, LyCORIS' fields that PEFT lacks, and their file."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import InitVar, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .._files import replacing
from ..errors import LoKrFileError, LoKrValueError, blame
from ._layout import CONFIG_NAME, is_lokr, matching_keys, regex

# The fields that PEFT does not have.
_OWN = ("bias", "use_effective_conv", "full_matrix", "rs_lora", "dora", "order", "unbalanced")
_CHOICES = {
    "init_weights": (True, False, "lycoris"),
    "bias": ("none", "all", "lokr_only"),
    "dora": (None, "out", "in"),
    "order": ("peft", "lycoris"),
}


@dataclass
class LoKrConfig:
    """Which layers get LoKr adapters, and of what form: dW = scaling * (W1 ⊗ W2).

    The fields, each with its source:

    ========================  ==========================================================================================
    r                         PEFT. Rank of W2's halves (and W1's with ``decompose_both``); W2 is whole if r is at least
                              half of its longer side
    alpha                     PEFT. scaling = alpha / r, for whole factors too
    rank_dropout              PEFT. Probability that a row of dW is dropped in a training step
    module_dropout            PEFT. Probability that a layer's whole dW is dropped in a training step
    rank_dropout_scale        PEFT. Divide the rows that are kept by their share
    use_effective_conv2d      PEFT. W2 of a Conv1d or Conv2d with a kernel in Tucker form (FedPara, proposition 3)
    decompose_both            PEFT. W1 is low-rank too if r is below half of its longer side
    decompose_factor          PEFT. Size of W1 in each dimension, or the largest divisor below it; -1: the most balanced
                              pair
    target_modules            PEFT. Names (whole or their ends), a regular expression of the whole name, "all-linear",
                              or None: PEFT's default for the model's ``config.model_type``
    exclude_modules           PEFT. Names or a regular expression; they win over ``target_modules``
    init_weights              PEFT. True: W1 = 0. "lycoris": W2 = 0. False: random, so dW is not 0
    layers_to_transform       PEFT. Index or indices of the layers of a ``ModuleList`` to take from ``target_modules``
    layers_pattern            PEFT. Name or names of that ``ModuleList``; None: any
    rank_pattern              PEFT. r of single modules: name or regular expression of its end -> r
    alpha_pattern             PEFT. alpha of single modules, likewise
    modules_to_save           PEFT. Names of modules that are trained whole and saved with the adapter
    bias                      PEFT's LoRA. "none", "all" or "lokr_only": which biases of the base are trained and saved
    use_effective_conv        LyCORIS ``use_tucker``. The Tucker form for convolutions of any number of axes
    full_matrix               LyCORIS. Both factors whole, whatever r; scaling stays alpha / r
    rs_lora                   LyCORIS. scaling = alpha / sqrt(r)
    dora                      LyCORIS ``weight_decompose``, ``wd_on_out``. "out" or "in": a trained magnitude for each
                              row or column of W + dW. None: no DoRA
    order                     "peft" or "lycoris": which factor of a dimension comes first (``factorization``); "peft"
                              also means W2 ⊗ W1 for a Conv1d with a whole W2
    unbalanced                LyCORIS ``unbalanced_factorization``. W1 takes the larger factor of the output
    task_type, peft_type, auto_mapping, peft_version, base_model_name_or_path, revision, inference_mode
                              PEFT. Kept for PEFT's reader; ``inference_mode`` freezes the adapter
    ========================  ==========================================================================================

    ``lora_alpha`` is an alias of ``alpha``, as in PEFT's documented examples.

    >>> LoKrConfig(r=8, alpha=16, target_modules=["to_q", "to_v"]).scaling()
    2.0

    Raises LoKrValueError if a value is out of range.
    """

    r: int = 8
    alpha: float = 8
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    use_effective_conv2d: bool = False
    decompose_both: bool = False
    decompose_factor: int = -1
    rank_dropout_scale: bool = False
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    init_weights: bool | Literal["lycoris"] = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    bias: Literal["none", "all", "lokr_only"] = "none"
    use_effective_conv: bool = False
    full_matrix: bool = False
    rs_lora: bool = False
    dora: Literal["out", "in"] | None = None
    order: Literal["peft", "lycoris"] = "peft"
    unbalanced: bool = False
    task_type: str | None = None
    peft_type: str = "LOKR"
    auto_mapping: dict | None = None
    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False
    lora_alpha: InitVar[float | None] = None

    def __post_init__(self, lora_alpha: float | None):
        if lora_alpha is not None:
            self.alpha = lora_alpha
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, (list, tuple)):
                setattr(self, name, set(value))
        for name in ("rank_pattern", "alpha_pattern"):
            value = getattr(self, name) or {}
            _require(isinstance(value, Mapping), f"{name} must map module names to numbers", "a mapping", value)
            setattr(self, name, dict(value))
        # Trainers write ranks as floats too, and huge ones (1e10) to have whole factors.
        self.r = _as_int(self.r)
        self.rank_pattern = {name: _as_int(rank) for name, rank in self.rank_pattern.items()}
        self._check()

    def _check(self) -> None:
        """Raises LoKrValueError if a value is out of range or a pattern is not a regular expression."""
        for name, rank in self._with_patterns("r", "rank_pattern"):
            _require(_is_int(rank) and 1 <= rank < 1e300, f"{name} must be a whole number of at least 1", ">= 1", rank)
        for name, alpha in self._with_patterns("alpha", "alpha_pattern"):
            _require(_is_number(alpha), f"{name} must be a finite number", "a number such as 16", alpha)
        for name in ("rank_dropout", "module_dropout"):
            value = getattr(self, name)
            _require(_is_number(value) and 0 <= value < 1, f"{name} must be a probability", "0 <= p < 1", value)
        factor, expected = self.decompose_factor, "-1 (the most balanced pair) or >= 1"
        in_range = _is_int(factor) and (factor == -1 or factor >= 1)
        _require(in_range, "decompose_factor must be -1 or a whole number of at least 1", expected, factor)
        for name, allowed in _CHOICES.items():
            _require(getattr(self, name) in allowed, f"Unknown {name}", allowed, getattr(self, name))
        _require(
            not self.layers_pattern or self.layers_to_transform is not None,
            "layers_pattern needs layers_to_transform",
            "the indices of the layers to take",
            f"layers_pattern {self.layers_pattern!r} alone",
        )
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, str):
                regex(value)
            several = value is None or isinstance(value, Collection)
            _require(several, f"{name} must be names or a pattern", "names or a regular expression", value)
        matching_keys((*self.rank_pattern, *self.alpha_pattern), "")
        if not is_lokr(vars(self)):
            raise LoKrValueError("This configuration is for another method", expected="LOKR", found=self.peft_type)

    def _with_patterns(self, name: str, patterns: str) -> list[tuple[str, Any]]:
        """The field's value and those of its patterns, with what to call each in an error."""
        return [(name, getattr(self, name)), *((f"{patterns}[{k!r}]", v) for k, v in getattr(self, patterns).items())]

    def module_rank(self, module: str, rank: int | None = None) -> tuple[int, str | None]:
        """(r, key) of a module: the first key of ``rank_pattern`` that matches counts, None if none does.

        rank: of the module's tensors in a file. PEFT trains with the patterns in their given order and saves them
            sorted; so of several that match, the one with this rank was the first.
        """
        keys = matching_keys(self.rank_pattern, module)
        key = next((key for key in keys if self.rank_pattern[key] == rank), keys[0] if keys else None)
        return self.r if key is None else self.rank_pattern[key], key

    def scaling(self, r: int | None = None, alpha: float | None = None) -> float:
        """The factor before W1 ⊗ W2, for the configuration's r and alpha unless a module's are given."""
        r, alpha = self.r if r is None else r, self.alpha if alpha is None else alpha
        return alpha / (math.sqrt(r) if self.rs_lora else r)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, sets as sorted lists."""
        return {name: sorted(v) if isinstance(v, (set, frozenset)) else v for name, v in asdict(self).items()}

    def save_pretrained(
        self, save_directory: str | os.PathLike, modules: Mapping[str, tuple[int, float]] | None = None
    ) -> None:
        """Write ``adapter_config.json`` into the folder, which is made if it is missing.

        modules: the rank and the scaling of each module. If fields that PEFT does not have are not at their defaults,
            they are written under ``lokr_core`` (PEFT warns and ignores them), and r, alpha and the patterns are
            written anew from ``modules``, so that PEFT computes the same.
        """
        write_entries(save_directory, self._for_peft(modules or {}))

    def _for_peft(self, modules: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
        entries = self.to_dict()
        own = {name: entries.pop(name) for name in _OWN}
        if own == {f.name: f.default for f in fields(self) if f.name in _OWN}:
            return entries
        kept = {name: entries[name] for name in ("r", "alpha", "rank_pattern", "alpha_pattern", "use_effective_conv2d")}
        entries["lokr_core"] = {**own, **kept}
        entries["use_effective_conv2d"] |= self.use_effective_conv
        if modules:
            (r, scaling), _ = Counter(modules.values()).most_common(1)[0]
            others = {re.escape(name): each for name, each in modules.items() if each != (r, scaling)}
            entries |= {"r": r, "alpha": scaling * r}
            entries["rank_pattern"] = {name: r for name, (r, _) in others.items()}
            entries["alpha_pattern"] = {name: scaling * r for name, (r, scaling) in others.items()}
        return entries

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **overrides: Any) -> LoKrConfig:
        """The ``adapter_config.json`` of a folder, PEFT's or ours; ``overrides`` replace fields of it.

        Unknown fields, as a newer PEFT may write them, are ignored with a warning. Raises LoKrFileError if the file is
        missing, not JSON or for another method, LoKrValueError if a value is out of range.
        """
        path = Path(pretrained_model_name_or_path)
        path = path / CONFIG_NAME if path.is_dir() else path
        if not path.is_file():
            expected = f"a folder with an {CONFIG_NAME}"
            raise LoKrFileError("There is no adapter configuration", file=path, expected=expected)
        with blame(file=path):
            entries = read_entries(path.read_bytes(), CONFIG_NAME)
            if not is_lokr(entries):
                raise LoKrFileError("The adapter is of another method", expected="LOKR", found=entries["peft_type"])
        own = entries.pop("lokr_core", None)
        entries |= {**(own if isinstance(own, dict) else {}), "peft_type": "LOKR", **overrides}
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(entries) - known)
        if unknown:
            warnings.warn(
                f"{path}: unknown fields are ignored: {', '.join(unknown)}. The file may come from a newer version of "
                "PEFT; if one of them changes what is computed, the result differs.",
                stacklevel=2,
            )
        return cls(**{name: value for name, value in entries.items() if name in known})


def _as_int(value: Any) -> Any:
    """A whole number that is stored as a float, as an int; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _require(condition: bool, problem: str, expected: object, found: object) -> None:
    if not condition:
        raise LoKrValueError(problem, expected=expected, found=repr(found))


def read_entries(text: str | bytes, source: str) -> dict[str, Any]:
    """The fields in a configuration's text. Raises LoKrFileError, naming ``source``, if it is not a JSON object."""
    try:
        entries = json.loads(text)
        if not isinstance(entries, dict):
            raise ValueError(f"it is {type(entries).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise LoKrFileError(
            f"The adapter configuration cannot be read: {error}",
            expected="a JSON object with r and alpha",
            found=f"{source}: {text[:80]!r}",
        ) from None
    return entries


def write_entries(folder: str | os.PathLike, entries: Mapping[str, object]) -> None:
    """Write ``adapter_config.json`` into the folder, which is made if it is missing.

    The order of the fields stays: of several patterns that match a module the first counts.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
