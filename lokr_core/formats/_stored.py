"""PEFT's configuration as it is found with a file, and the scaling that it gives a module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import LoKrFileError, LoKrValueError, blame
from ..modules import PREFIX
from ..peft import CONFIG_NAME, METADATA_KEY, LoKrConfig, is_lokr, is_whole, matching_keys, names_module, read_entries

# All that a reader needs: other fields, and other values of them, may be a newer PEFT's.
_FIELDS = ("r", "alpha", "rank_pattern", "alpha_pattern", "target_modules")
_HINT = "get it again, or take it away: then alpha = r is assumed"


@dataclass(frozen=True)
class StoredConfig:
    """A ``LoKrConfig`` and where it was found. ``prefix``: the part of a pipeline it is for, "transformer." or ""."""

    config: LoKrConfig
    source: str
    prefix: str = ""

    def name_inside(self, module: str) -> str:
        """A module's name inside the model that PEFT wrapped."""
        return module.removeprefix(self.prefix).removeprefix(PREFIX)

    def scaling(
        self, module: str, w1_rank: int | None, w2_rank: int | None, w2_shape: Sequence[int]
    ) -> tuple[float, tuple[str, ...]]:
        """(alpha / r, notes), for whole factors (rank None) too.

        Raises LoKrFileError if r differs from the tensors' rank.
        """
        config, name = self.config, self.name_inside(module)
        r, key = config.module_rank(name, w1_rank if w2_rank is None else w2_rank)
        alphas: dict[str | None, float] = {
            k: config.alpha_pattern[k] for k in matching_keys(config.alpha_pattern, name)
        }
        alpha = alphas.get(key, next(iter(alphas.values()), config.alpha))
        notes = []
        if len(set(alphas.values())) > 1 and key not in alphas:
            notes.append(
                f"several entries of {self.source}'s alpha_pattern match, and their order is lost: {alpha:g} taken"
            )
        for name, rank in (("w1", w1_rank), ("w2", w2_rank)):
            if rank is not None and rank != r:
                raise LoKrFileError(
                    f"PEFT's configuration contradicts the tensors: {name} has another rank",
                    expected=f"r = {r} (from {self.source})",
                    found=f"rank {rank}",
                    hint="put the adapter_config.json of this very adapter beside it, or take the wrong one away: "
                    "then alpha = r is assumed",
                )
        if w2_rank is None and not is_whole(r, w2_shape):
            notes.append(f"w2 is whole although {self.source} says r = {r}: is it this adapter's?")
        return alpha / r, tuple(notes)

    def unexpected(self, modules: Iterable[str]) -> list[str]:
        """The modules that ``target_modules`` does not name."""
        targets = self.config.target_modules
        if not targets or targets == "all-linear":
            return []
        return [module for module in modules if not names_module(targets, self.name_inside(module))]


def stored_configs(metadata: Mapping[str, str], text: str | bytes | None) -> list[StoredConfig]:
    """The configurations of LoKr in a file's metadata, or else the one beside it.

    metadata: where diffusers stores one for each part of the pipeline; text: of ``adapter_config.json``

    Raises LoKrFileError if one is not JSON, or a value is out of range.
    """
    source = f"the file's {METADATA_KEY}"
    by_prefix: dict[str, dict[str, Any]] = defaultdict(dict)
    with blame(hint=_HINT):
        for key, value in read_entries(metadata.get(METADATA_KEY, "{}"), source).items():
            part, dot, name = key.rpartition(".")
            by_prefix[part + dot][name] = value
        found = [_stored(entries, source, prefix) for prefix, entries in by_prefix.items()]
        if text is not None and not any(found):
            found = [_stored(read_entries(text, CONFIG_NAME), CONFIG_NAME)]
    return [config for config in found if config]


def _stored(entries: Mapping[str, Any], source: str, prefix: str = "") -> StoredConfig | None:
    if not is_lokr(entries):
        return None
    try:
        config = LoKrConfig(**{name: entries[name] for name in _FIELDS if name in entries})
    except LoKrValueError as error:
        raise LoKrFileError(
            f"PEFT's configuration cannot be used: {error.problem}",
            expected=error.expected,
            found=f"{str(error.found)[:80]} in {source}",
            hint=_HINT,
        ) from None
    return StoredConfig(config, source, prefix)
