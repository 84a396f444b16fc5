"""``LoKrConfig``: PEFT's fields with PEFT's meaning, LyCORIS' that PEFT has not, and their ``adapter_config.json``."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import InitVar, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from .._files import replacing
from ..errors import LoKrFileError, LoKrValueError

CONFIG_NAME = "adapter_config.json"


@dataclass
class LoKrConfig:
    """How a model's layers get LoKr adapters: dW = scaling * (W1 ⊗ W2).

    The fields, each with its source:

    ========================  ==========================================================================================
    r                         PEFT. Rank of W2's halves (and W1's with ``decompose_both``); W2 stays whole where r is at
                              least half of its longer side
    alpha                     PEFT. scaling = alpha / r, for whole factors too
    rank_dropout              PEFT. Probability with which a row of dW is left out of a training step
    module_dropout            PEFT. Probability with which a layer's whole dW is left out of a training step
    rank_dropout_scale        PEFT. Divide what rank dropout leaves by the share it left
    use_effective_conv2d      PEFT. W2 of a Conv1d or Conv2d with a kernel in Tucker form (FedPara, proposition 3)
    decompose_both            PEFT. W1 low-rank too, where r is below half of its longer side
    decompose_factor          PEFT. Size of W1 in each dimension where it divides, else the largest divisor up to it;
                              -1: the most balanced pair
    target_modules            PEFT. Names (whole or their ends), a regular expression of the whole name, "all-linear",
                              or None for what PEFT takes for the model's ``config.model_type``
    exclude_modules           PEFT. Names or a regular expression; they win over ``target_modules``
    init_weights              PEFT. True: W1 = 0. "lycoris": W2 = 0. False: random, so dW is not 0
    layers_to_transform       PEFT. Index or indices of the layers of a ``ModuleList`` to take from ``target_modules``
    layers_pattern            PEFT. Name or names of that ``ModuleList``; without it any
    rank_pattern              PEFT. r for single modules: name or regular expression of its end -> r
    alpha_pattern             PEFT. alpha for single modules, likewise
    modules_to_save           PEFT. Names of modules that are trained whole and saved with the adapter
    bias                      PEFT's LoRA. "none", "all" or "lokr_only": which biases of the base are trained and saved
    use_effective_conv        LyCORIS ``use_tucker``. The Tucker form for convolutions of any number of axes
    full_matrix               LyCORIS. Both factors whole, whatever r; scaling stays alpha / r
    rs_lora                   LyCORIS. scaling = alpha / sqrt(r)
    dora                      LyCORIS ``weight_decompose``, ``wd_on_out``. "out" or "in": a trained magnitude for each
                              row or column of W + dW. None: none
    order                     "peft" or "lycoris": which factor of a dimension comes first (``factorization``), and with
                              "peft" also PEFT's W2 ⊗ W1 for a Conv1d whose W2 is whole
    unbalanced                LyCORIS ``unbalanced_factorization``. W1 takes the larger factor of the output
    task_type, peft_type, auto_mapping, peft_version, base_model_name_or_path, revision, inference_mode
                              PEFT. Carried along for PEFT's reader; ``inference_mode`` freezes the adapter
    ========================  ==========================================================================================

    ``lora_alpha`` is ``alpha`` under the name that PEFT's documented examples use.

    >>> LoKrConfig(r=8, alpha=16, target_modules=["to_q", "to_v"]).scaling()
    2.0

    Raises LoKrValueError for values that no adapter can have.
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
        self.rank_pattern, self.alpha_pattern = dict(self.rank_pattern or {}), dict(self.alpha_pattern or {})
        self._check()

    def _check(self) -> None:
        for name, rank in {"r": self.r, **{f"rank_pattern[{k!r}]": v for k, v in self.rank_pattern.items()}}.items():
            _require(_is_int(rank) and rank >= 1, f"{name} must be a whole number of 1 at least", ">= 1", rank)
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            _require(_is_number(alpha), f"{name} must be a finite number", "a number such as 16", alpha)
        for name in ("rank_dropout", "module_dropout"):
            value = getattr(self, name)
            _require(_is_number(value) and 0 <= value < 1, f"{name} must be a probability", "0 <= p < 1", value)
        factor = self.decompose_factor
        _require(
            _is_int(factor) and (factor == -1 or factor >= 1),
            "decompose_factor must be -1 or a whole number of 1 at least",
            "-1 (the most balanced pair) or >= 1",
            factor,
        )
        choices = {
            "init_weights": (True, False, "lycoris"),
            "bias": ("none", "all", "lokr_only"),
            "dora": (None, "out", "in"),
            "order": ("peft", "lycoris"),
        }
        for name, allowed in choices.items():
            _require(getattr(self, name) in allowed, f"{name} has no such value", allowed, getattr(self, name))
        _require(
            not self.layers_pattern or self.layers_to_transform is not None,
            "layers_pattern needs layers_to_transform",
            "the indices of the layers to take",
            f"layers_pattern {self.layers_pattern!r} alone",
        )
        if str(self.peft_type).rpartition(".")[2].upper() != "LOKR":
            raise LoKrValueError("This configuration is for another method", expected="LOKR", found=self.peft_type)

    def scaling(self, r: int | None = None, alpha: float | None = None) -> float:
        """What W1 ⊗ W2 is multiplied by, for the config's own r and alpha or for a module's."""
        r, alpha = self.r if r is None else r, self.alpha if alpha is None else alpha
        return alpha / (math.sqrt(r) if self.rs_lora else r)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, sets as sorted lists."""
        return {name: sorted(v) if isinstance(v, (set, frozenset)) else v for name, v in asdict(self).items()}

    def save_pretrained(
        self, save_directory: str | os.PathLike, modules: Mapping[str, tuple[int, float]] | None = None
    ) -> None:
        """Write ``adapter_config.json`` into the folder, which is made where it is missing.

        Fields that PEFT has not are written under ``lokr_core``, and only where one is not at its default; PEFT says
        that it ignores them. So that PEFT computes the same from the rest, ``modules`` then tells the rank and the
        scaling that each module has: r, alpha and the patterns are written for those.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / CONFIG_NAME) as temporary:
            # Not sorted: of several patterns that match a module the first counts.
            temporary.write_text(json.dumps(self._for_peft(modules or {}), indent=2) + "\n", encoding="utf-8")

    def _for_peft(self, modules: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
        entries = self.to_dict()
        own = {name: entries.pop(name) for name in _OWN}
        if own == _OWN:
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

        Fields that are not known here, as a newer PEFT may write them, are left out with a warning. Raises
        LoKrFileError where there is none, or it is no JSON or for another method, LoKrValueError for impossible values.
        """
        path = Path(pretrained_model_name_or_path)
        path = path / CONFIG_NAME if path.is_dir() else path
        if not path.is_file():
            raise LoKrFileError(
                "There is no adapter configuration", file=path, expected=f"a folder with an {CONFIG_NAME}"
            )
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise LoKrFileError(f"The adapter configuration is no JSON: {error}", file=path) from None
        if not isinstance(entries, dict):
            raise LoKrFileError("The adapter configuration is no JSON object", file=path, found=type(entries).__name__)
        kind = str(entries.get("peft_type", "LOKR")).rpartition(".")[2].upper()
        if kind != "LOKR":
            raise LoKrFileError("The adapter is of another method", file=path, expected="LOKR", found=kind)
        own = entries.pop("lokr_core", None)
        entries |= {**(own if isinstance(own, dict) else {}), "peft_type": kind, **overrides}
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(entries) - known)
        if unknown:
            warnings.warn(
                f"{path}: fields that are not known here are ignored: {', '.join(unknown)}. The file may come from a "
                "newer version of PEFT; if one of them changes what is computed, the result differs.",
                stacklevel=2,
            )
        return cls(**{name: value for name, value in entries.items() if name in known})


# The fields that PEFT has not, at their defaults.
_OWN = {
    "bias": "none",
    "use_effective_conv": False,
    "full_matrix": False,
    "rs_lora": False,
    "dora": None,
    "order": "peft",
    "unbalanced": False,
}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require(condition: bool, problem: str, expected: object, found: object) -> None:
    if not condition:
        raise LoKrValueError(problem, expected=expected, found=repr(found))
