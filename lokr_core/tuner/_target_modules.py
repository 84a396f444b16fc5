"""Which modules of a model a ``LoKrConfig`` means: PEFT's rules (``tuners/tuners_utils.py``)."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Collection
from itertools import chain

from torch import nn

from ..errors import LoKrMatchError, LoKrValueError
from ..peft import LoKrConfig, matching_keys, names_module
from ._all_layers import outer_modules
from ._defaults import CLASSIFIERS, TARGETS_BY_MODEL_TYPE
from ._layer import KINDS, Linear, LoKrLayer


def _resolved(model: nn.Module, config: LoKrConfig) -> list[str] | set[str] | str:
    """``config.target_modules`` as names or a regular expression; None and "all-linear" are looked up in the model."""
    targets = config.target_modules
    if targets is None:
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind not in TARGETS_BY_MODEL_TYPE:
            raise LoKrValueError(
                "target_modules has to be given: there is no default for this model",
                expected="names such as ['to_q', 'to_v'], a regular expression, or 'all-linear'",
                found=f"target_modules None, model_type {kind!r}",
            )
        return TARGETS_BY_MODEL_TYPE[kind]
    if isinstance(targets, str) and targets.lower() == "all-linear":
        head = _output_layer(model, config)
        return {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, Linear)) and m is not head} - {""}
    return targets


def _output_layer(model: nn.Module, config: LoKrConfig) -> nn.Module | None:
    """The output layer, which "all-linear" leaves out."""
    find = getattr(model, "get_output_embeddings", None)
    output = find() if callable(find) else None
    if output is None and config.task_type == "SEQ_CLS":
        heads = (getattr(model, name, None) for name in CLASSIFIERS)
        output = next((head for head in heads if head is not None), None)
    return output


def matching_modules(model: nn.Module, config: LoKrConfig) -> dict[str, nn.Module]:
    """The modules to adapt, by name, after resolving ``config.target_modules`` in place. The model is not changed.

    Raises LoKrMatchError, with similar names, if none matches, LoKrValueError if there are no default targets, and
    TypeError for a module of a kind that cannot have an adapter.
    """
    config.target_modules = targets = _resolved(model, config)
    modules = outer_modules(model, LoKrLayer)
    excluded = {name for name in modules if _excluded(config, name)}
    found = {name: m for name, m in modules.items() if name not in excluded and _targeted(config, targets, name)}
    if not found:
        raise _nothing(config, targets, list(modules), excluded)
    for name, module in found.items():
        if not isinstance(module, (LoKrLayer, *KINDS)):
            raise TypeError(
                f"target_modules names {name!r}, a {type(module).__name__}: it cannot have a LoKr adapter, only "
                f"{', '.join(kind.__name__ for kind in KINDS)} can. Name its parts, or exclude it with exclude_modules."
            )
    if config.exclude_modules and not excluded:
        warnings.warn(f"exclude_modules={config.exclude_modules!r} excluded no module", stacklevel=4)
    for field in ("rank_pattern", "alpha_pattern"):
        unused = [p for p in getattr(config, field) if not any(matching_keys([p], name) for name in found)]
        if unused:
            warnings.warn(f"Keys of {field} that match no target are ignored: {', '.join(unused)}", stacklevel=4)
    return found


def _nothing(
    config: LoKrConfig, targets: Collection[str] | str, names: list[str], excluded: set[str]
) -> LoKrMatchError:
    """The error for targets that match no module, with similar names."""
    wanted = [targets] if isinstance(targets, str) else sorted(targets)
    ends = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    near = chain.from_iterable(
        difflib.get_close_matches(target, (ends if "." not in target else names), n=3) for target in wanted
    )
    hints = [f"near: {', '.join(found)}"] if (found := list(dict.fromkeys(near))) else []
    if excluded:
        hints.append(f"{len(excluded)} modules were excluded by exclude_modules or modules_to_save")
    if config.layers_to_transform is not None:
        hints.append(f"layers_to_transform is {config.layers_to_transform}, layers_pattern {config.layers_pattern}")
    return LoKrMatchError(
        "target_modules names no module of the model",
        expected=", ".join(wanted),
        found=f"{len(names)} modules, whose names end in " + ", ".join(ends[:20]) + (", ..." if len(ends) > 20 else ""),
        hint="; ".join(hints) or "name modules of this model",
    )


def _excluded(config: LoKrConfig, name: str) -> bool:
    return names_module(config.exclude_modules or (), name) or any(
        f".{saved}." in f".{name}." for saved in config.modules_to_save or ()
    )


def _targeted(config: LoKrConfig, targets: Collection[str] | str, name: str) -> bool:
    """Whether ``targets`` name the module; ``layers_to_transform`` restricts those that match by their end alone."""
    if not names_module(targets, name):
        return False
    return isinstance(targets, str) or name in targets or _in_layers(config, name)


def _in_layers(config: LoKrConfig, name: str) -> bool:
    """Whether the module lies in a layer of ``layers_to_transform``."""
    wanted = config.layers_to_transform
    if wanted is None or wanted == []:
        return True
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern
    expressions = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns or ()] or [r".*?\.[^.]*\.(\d+)\."]
    match = next(filter(None, (re.match(expression, name) for expression in expressions)), None)
    return match is not None and int(match[1]) in ([wanted] if isinstance(wanted, int) else wanted)
