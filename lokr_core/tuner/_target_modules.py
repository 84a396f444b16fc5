"""Which modules of a model a ``LoKrConfig`` means: PEFT's rules (``tuners/tuners_utils.py``)."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from torch import nn

from ..errors import LoKrMatchError, LoKrValueError
from ..peft import LoKrConfig
from ._kinds import KINDS, Linear, layer_class
from ._layer import LoKrLayer

_BY_MODULES = {
    ("q_proj", "v_proj"): "bart opt gptj gpt_neo llama llama4 mistral mixtral stablelm gemma gemma2 gemma3_text "
    "qwen2 qwen3",
    ("query", "value"): "bert roberta xlm-roberta electra layoutlm",
    ("query_key_value",): "bloom gpt_neox chatglm RefinedWebModel RefinedWeb falcon",
    ("q", "v"): "t5 mt5",
    ("query_proj", "value_proj"): "deberta-v2",
    ("q_proj", "v_proj", "fc1", "fc2"): "phi",
}
# config.model_type -> what PEFT takes where target_modules is None; those that LoKr can be trained on.
_BY_MODEL_TYPE = {kind: set(modules) for modules, kinds in _BY_MODULES.items() for kind in kinds.split()}
_CLASSIFIERS = ("classifier", "score")


def resolve_targets(model: nn.Module, config: LoKrConfig) -> set[str] | str:
    """``config.target_modules`` as names or a regular expression, with None and "all-linear" looked up in the model.

    Raises LoKrValueError where it is None and PEFT has no default for the model.
    """
    targets = config.target_modules
    if targets is None:
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind not in _BY_MODEL_TYPE:
            raise LoKrValueError(
                "target_modules has to be given: there is no default for this model",
                expected="names such as ['to_q', 'to_v'], a regular expression, or 'all-linear'",
                found=f"target_modules None, model_type {kind!r}",
            )
        return _BY_MODEL_TYPE[kind]
    if isinstance(targets, str) and targets.lower() == "all-linear":
        heads = _heads(model, config)
        return {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, Linear)) and m not in heads} - {""}
    return targets


def _heads(model: nn.Module, config: LoKrConfig) -> list[nn.Module]:
    """The output layers, which "all-linear" leaves out."""
    find = getattr(model, "get_output_embeddings", None)
    output = find() if callable(find) else None
    if output is None and config.task_type == "SEQ_CLS":
        output = next(
            (head for head in (getattr(model, name, None) for name in _CLASSIFIERS) if head is not None), None
        )
    return [] if output is None else [output]


def matching_modules(model: nn.Module, config: LoKrConfig, targets: Collection[str] | str) -> dict[str, nn.Module]:
    """The modules to be adapted by name. Nothing is changed.

    Raises LoKrMatchError, with names that are near, where there are none, LoKrValueError for a regular expression that
    is none and TypeError for a module of a kind that cannot have an adapter.
    """
    found: dict[str, nn.Module] = {}
    excluded: list[str] = []
    names: list[str] = []
    inside: str | None = None
    for name, module in model.named_modules():
        if not name or (inside is not None and name.startswith(inside)):
            continue
        if isinstance(module, LoKrLayer):
            inside = name + "."  # what an adapter's layer is made of
        names.append(name)
        if _excluded(config, name):
            excluded.append(name)
        elif _targeted(config, targets, name):
            found[name] = module
    if not found:
        raise _nothing(config, targets, names, excluded)
    for name, module in found.items():
        if not isinstance(module, LoKrLayer) and layer_class(module) is None:
            raise TypeError(
                f"target_modules names {name!r}, a {type(module).__name__}: it cannot have a LoKr adapter, only "
                f"{', '.join(kind.__name__ for kind in KINDS)} can. Name its parts, or exclude it with exclude_modules."
            )
    if config.exclude_modules and not excluded:
        warnings.warn(f"exclude_modules={config.exclude_modules!r} excluded no module", stacklevel=4)
    for field in ("rank_pattern", "alpha_pattern"):
        unused = [p for p in getattr(config, field) if not any(pattern_matches(p, name) for name in found)]
        if unused:
            warnings.warn(f"Keys of {field} that match no target are ignored: {', '.join(unused)}", stacklevel=4)
    return found


def _nothing(
    config: LoKrConfig, targets: Collection[str] | str, names: list[str], excluded: list[str]
) -> LoKrMatchError:
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


def names_module(names: Iterable[str], module: str) -> bool:
    """Whether one of ``names`` is the module's, or the end of it at a dot."""
    return any(module == name or module.endswith("." + name) for name in names)


def _regex(pattern: str, field: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise LoKrValueError(f"{field} is no regular expression: {error}", found=repr(pattern)) from None


def _excluded(config: LoKrConfig, name: str) -> bool:
    excluded = config.exclude_modules
    if isinstance(excluded, str) and excluded:
        if _regex(excluded, "exclude_modules").fullmatch(name):
            return True
    elif excluded and names_module(excluded, name):
        return True
    parts = f".{name}."
    return any(f".{saved}." in parts for saved in config.modules_to_save or ())


def _targeted(config: LoKrConfig, targets: Collection[str] | str, name: str) -> bool:
    if isinstance(targets, str):
        return _regex(targets, "target_modules").fullmatch(name) is not None
    if name in targets:
        return True
    return names_module(targets, name) and _in_layers(config, name)


def _in_layers(config: LoKrConfig, name: str) -> bool:
    """Whether the module lies in a layer of ``layers_to_transform``."""
    wanted = config.layers_to_transform
    if wanted is None or wanted == []:
        return True
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern
    if patterns:
        found = (re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name) for pattern in patterns)
        match = next((m for m in found if m), None)
    else:
        match = re.match(r".*?\.[^.]*\.(\d+)\.", name)
    return match is not None and int(match[1]) in ([wanted] if isinstance(wanted, int) else wanted)


def pattern_matches(pattern: str, module: str) -> bool:
    """Whether a key of ``rank_pattern`` or ``alpha_pattern``, a regular expression of a name's end, matches."""
    return _regex(rf"(.*\.)?({pattern})$", "a key of rank_pattern or alpha_pattern").match(module) is not None


def pattern_value(patterns: Mapping[str, float], module: str, default: float) -> float:
    """The value of the first pattern that means the module."""
    return next((value for pattern, value in patterns.items() if pattern_matches(pattern, module)), default)
