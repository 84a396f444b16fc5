"""PEFT's configuration of an adapter: where it is found, and what alpha / r it gives a module."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from ..errors import LoKrFileError
from ..kronecker import Factor

CONFIG_NAME = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
_WRAPPER = "base_model.model."


@dataclass(frozen=True)
class PeftConfig:
    """What of a ``LoKrConfig`` counts for a reader. ``prefix``: the part of a pipeline it is for, with its dot."""

    r: float
    alpha: float
    source: str
    prefix: str = ""
    ranks: tuple[tuple[re.Pattern[str], float], ...] = ()
    alphas: tuple[tuple[re.Pattern[str], float], ...] = ()
    targets: str | tuple[str, ...] = field(default=())

    @property
    def beside(self) -> bool:
        """Whether it stood beside the file, and not in it."""
        return self.source == CONFIG_NAME

    def name_inside(self, module: str) -> str:
        """A module's name inside the model that PEFT wrapped."""
        return module.removeprefix(self.prefix).removeprefix(_WRAPPER)

    def of(self, module: str, rank: int | None, notes: list[str]) -> tuple[float, float]:
        """(r, alpha) of a module whose low-rank factors have ``rank``: by the first pattern that matches the end of
        its name, else the config's own (PEFT ``tuners/lokr/model.py``, ``utils/other.py: get_pattern_key``).

        PEFT trains with the patterns in the order in which they were given and saves them sorted, so where several
        match, the one with the tensors' rank is the one that was in force.
        """
        name = self.name_inside(module)
        ranks = {pattern.pattern: r for pattern, r in self.ranks if pattern.match(name)}
        alphas = {pattern.pattern: alpha for pattern, alpha in self.alphas if pattern.match(name)}
        chosen = next((text for text, r in ranks.items() if r == rank), next(iter(ranks), None))
        alpha = alphas.get(chosen, next(iter(alphas.values()), self.alpha))
        if len(set(alphas.values())) > 1 and chosen not in alphas:
            notes.append(
                f"several entries of {self.source}'s alpha_pattern match, and their order is lost: {alpha:g} taken"
            )
        return ranks.get(chosen, self.r), alpha

    def scaling(self, module: str, w1: Factor, w2: Factor, notes: list[str]) -> float:
        """alpha / r, also where both factors are whole. Raises LoKrFileError where r is not the tensors' rank."""
        r, alpha = self.of(module, w1.rank if w2.rank is None else w2.rank, notes)
        for name, factor in (("w1", w1), ("w2", w2)):
            if factor.rank is not None and factor.rank != r:
                raise LoKrFileError(
                    f"PEFT's configuration contradicts the tensors: {name} has another rank",
                    expected=f"r = {r:g} (from {self.source})",
                    found=f"rank {factor.rank}",
                    hint="put the adapter_config.json of this very adapter beside it, or take the wrong one away: "
                    "then alpha = r is assumed",
                )
        # PEFT leaves w2 whole only where r is at least half of its longer side (``tuners/lokr/layer.py``).
        if w2.rank is None and r < max(w2.shape[:2]) / 2:
            notes.append(f"w2 is whole although {self.source} says r = {r:g}: is it this adapter's?")
        return alpha / r

    def targeted(self, module: str) -> bool:
        """Whether ``target_modules`` names the module (PEFT ``tuners_utils.py: check_target_module_exists``)."""
        name, targets = self.name_inside(module), self.targets
        if isinstance(targets, str):
            return targets == "all-linear" or re.fullmatch(targets, name) is not None
        return not targets or any(name == target or name.endswith("." + target) for target in targets)


def configs_in_metadata(metadata: Mapping[str, str]) -> list[PeftConfig]:
    """The configurations that diffusers stores in a file's metadata, one for each part of the pipeline.

    Raises LoKrFileError where there is one that is no JSON or no configuration.
    """
    if METADATA_KEY not in metadata:
        return []
    entries = _json(metadata[METADATA_KEY], f"the file's {METADATA_KEY}")
    by_part: dict[str, dict[str, object]] = defaultdict(dict)
    for key, value in entries.items():
        part, dot, name = key.rpartition(".")
        by_part[part + dot][name] = value
    found = [_config(entries, f"the file's {METADATA_KEY}", prefix) for prefix, entries in by_part.items()]
    return [config for config in found if config]


def parse_config(text: str | bytes, source: str) -> PeftConfig | None:
    """The text of an ``adapter_config.json``; None where it is for another method than LoKr.

    Raises LoKrFileError where it is no JSON, or r or alpha are no numbers.
    """
    return _config(_json(text, source), source)


def _json(text: str | bytes, source: str) -> dict:
    try:
        entries = json.loads(text)
        if not isinstance(entries, dict):
            raise ValueError(f"it is {type(entries).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise LoKrFileError(
            f"PEFT's configuration cannot be read: {error}",
            expected="a JSON object with r and alpha",
            found=f"{source}: {text[:80]!r}",
            hint="get it again, or take it away: then alpha = r is assumed",
        ) from None
    return entries


def _config(entries: Mapping[str, object], source: str, prefix: str = "") -> PeftConfig | None:
    kind = entries.get("peft_type", "LOKR")
    if str(kind).rpartition(".")[2].upper() != "LOKR":
        return None

    def number(value: object, name: str, least: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e9:
            raise _refused(f"{name} is no number", f"{name}: a number of {least:g} at least", value, source)
        return value

    def patterns(name: str, least: float) -> tuple[tuple[re.Pattern[str], float], ...]:
        given = entries.get(name) or {}
        if not isinstance(given, Mapping):
            raise _refused(f"{name} is no table", f"{name}: module names and numbers", given, source)
        return tuple((_pattern(key, source), number(value, name, least)) for key, value in given.items())

    targets = entries.get("target_modules") or ()
    if isinstance(targets, str):
        _pattern(targets, source)
    else:
        targets = tuple(map(str, targets)) if isinstance(targets, Collection) else ()
    return PeftConfig(
        r=number(entries.get("r", 8), "r", 1),
        alpha=number(entries.get("alpha", 8), "alpha", -1e9),
        source=source,
        prefix=prefix,
        ranks=patterns("rank_pattern", 1),
        alphas=patterns("alpha_pattern", -1e9),
        targets=targets,
    )


def _pattern(text: str, source: str) -> re.Pattern[str]:
    """A regular expression for the end of a module's name; it begins at a dot."""
    try:
        return re.compile(rf"(.*\.)?({text})$")
    except (re.error, RecursionError, OverflowError) as error:
        problem = f"{text!r} is no regular expression: {error}"
        raise _refused(problem, "a pattern of module names", text, source) from None


def _refused(problem: str, expected: str, found: object, source: str) -> LoKrFileError:
    return LoKrFileError(
        f"PEFT's configuration cannot be used: {problem}",
        expected=expected,
        found=f"{str(found)[:80]!r} in {source}",
        hint="get it again, or take it away: then alpha = r is assumed",
    )


def target_notes(config: PeftConfig, modules: Iterable[str]) -> list[str]:
    """What is odd about the modules that ``target_modules`` does not name."""
    strangers = [module for module in modules if not config.targeted(module)]
    if not strangers:
        return []
    return [
        f"{len(strangers)} modules, such as {strangers[0]}, are not among the target_modules of {config.source}: "
        "they are used all the same"
    ]


def as_trained(w1: Factor, w2: Factor, notes: list[str]) -> tuple[Factor, Factor]:
    """The factors of what PEFT multiplied: w2 ⊗ w1 where w2 is a whole one of a Conv1d, w1 ⊗ w2 everywhere else.

    PEFT 0.21 (``tuners/lokr/layer.py: make_kron``) gives w1 trailing axes for four axes of w2 alone. For three,
    ``torch.kron`` puts the missing axis in front, and the reshape to the weight's shape makes w2 the outer factor.
    """
    if w2.whole is None or w2.whole.ndim != 3:
        return w1, w2
    notes.append("PEFT trains a Conv1d's whole factors as w2 ⊗ w1, and so they are read")
    if w2.whole.shape[2] == 1:
        return Factor(w2.whole[:, :, 0]), w1
    inner = w1.rows(0, w1.shape[0], torch.promote_types(w2.whole.dtype, torch.float32))
    (k, n, kernel), (l, m) = w2.whole.shape, inner.shape
    # No two factors of the usual form have this product, since it is the outer one that has a kernel.
    product = torch.einsum("knx,lm->klnmx", w2.whole.to(inner.dtype), inner).reshape(k * l, n * m, kernel)
    return Factor(torch.ones(1, 1, dtype=inner.dtype)), Factor(product)
