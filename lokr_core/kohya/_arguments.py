"""``--network_args``: LyCORIS' names and sd-scripts', each with its meaning there, or refused by name."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import LoKrValueError
from ..peft import LoKrConfig
from ._presets import FULL, Preset, preset_of


@dataclass(frozen=True)
class Arguments:
    """What a network is made of.

    config: of Linears and convolutions with a kernel of 1; conv_dim, conv_alpha: rank and alpha of other convolutions
    preset: which layers; excluded, included: patterns of whole names, of which ``included`` wins
    reg_dims, reg_lrs: pattern of a whole name -> the layer's rank, learning rate
    loraplus: what multiplies the learning rate of W1 (LoRA+): for a "unet" and a "text_encoder", None for 1
    """

    config: LoKrConfig
    conv_dim: int
    conv_alpha: float
    preset: Preset = FULL
    excluded: tuple[re.Pattern[str], ...] = ()
    included: tuple[re.Pattern[str], ...] = ()
    reg_dims: Mapping[re.Pattern[str], int] | None = None
    reg_lrs: Mapping[re.Pattern[str], float] | None = None
    loraplus: tuple[float | None, float | None] = (None, None)
    train_t5xxl: bool = False
    train_llm_adapter: bool = False


def overridden(config: LoKrConfig, options: Mapping[str, Any]) -> LoKrConfig:
    """``config`` with the options that a preset has for a layer.

    >>> overridden(LoKrConfig(r=8), {"algo": "lokr", "dim": 2, "weight_decompose": True}).dora
    'out'
    """
    fields: dict[str, Any] = {}
    for name, value in options.items():
        if name == "algo":
            _only_lokr(value)
        elif name not in _LAYER_OPTIONS:
            raise _unknown(name, {**_LAYER_OPTIONS, "algo": None}, "option of a layer in the preset")
        elif value or name not in ("dim", "alpha"):  # LyCORIS takes 0 as not given
            field, read = _LAYER_OPTIONS[name]
            fields[field] = read(name, value)
    return replace(config, **_with_dora(fields, config.dora))


def parse(network_dim: int | None, network_alpha: float | None, given: Mapping[str, Any]) -> Arguments:
    """The arguments of a command line; ``given``: by name, as text.

    Raises LoKrValueError, naming the argument, for what this network cannot do or does not know.

    >>> arguments = parse(8, 4.0, {"factor": "16", "dora_wd": "True", "conv_dim": "4"})
    >>> arguments.config.decompose_factor, arguments.config.dora, arguments.conv_dim
    (16, 'out', 4)
    """
    given = {name: value for name, value in given.items() if value is not None and value != ""}
    _refuse(given)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in _READ:
            field, read = _READ[name]
            values[field] = read(name, value)
        elif name not in _WITHOUT_EFFECT:
            raise _unknown(name, _READ, "network argument")
    dim = 4 if network_dim is None else int(network_dim)
    alpha = float(dim if network_alpha is None else network_alpha)
    own = {*LoKrConfig.__dataclass_fields__, "wd_on_out"}
    config_fields = {name: values.pop(name) for name in list(values) if name in own}
    both = values.pop("loraplus_lr_ratio", None)
    ratios = (values.pop("loraplus_unet_lr_ratio", None), values.pop("loraplus_text_encoder_lr_ratio", None))
    preset = values.pop("preset", FULL)
    conv_dim = values.pop("conv_dim", dim) if preset.enable_conv else 0
    config = LoKrConfig(r=dim, alpha=alpha, order="lycoris", init_weights="lycoris")
    return Arguments(
        replace(config, **_with_dora(config_fields, None)),
        conv_dim,
        values.pop("conv_alpha", alpha),
        preset,
        loraplus=(ratios[0] or both, ratios[1] or both),
        **values,
    )


def _with_dora(fields: dict[str, Any], before: str | None) -> dict[str, Any]:
    """``fields`` with "out", "in" or None for ``dora`` in place of LyCORIS' two flags; ``before``: without them."""
    on_out = fields.pop("wd_on_out", before != "in")
    if fields.pop("dora", before is not None):
        return {**fields, "dora": "out" if on_out else "in"}
    return {**fields, "dora": None}


def _unknown(name: str, known: Mapping[str, Any], what: str) -> LoKrValueError:
    near = difflib.get_close_matches(name, known, n=3)
    return LoKrValueError(
        f"Unknown {what}",
        expected=", ".join(sorted(known)),
        found=name,
        hint=f"near: {', '.join(near)}" if near else "leave it out",
    )


def _only_lokr(algo: object) -> None:
    if str(algo).lower() != "lokr":
        raise LoKrValueError(
            "This network trains LoKr alone",
            expected="algo=lokr",
            found=f"algo={algo}",
            hint="give algo=lokr, or --network_module lycoris.kohya for other algorithms",
        )


def _refuse(given: Mapping[str, Any]) -> None:
    """Raises LoKrValueError for an argument that LyCORIS takes and this network does not, or reads differently."""
    _only_lokr(given.get("algo", "lokr"))
    hints = {
        "use_scalar": "leave it out: without it W2 starts at 0, and the update as well",
        "train_norm": "leave it out, or train with --network_module lycoris.kohya",
    }
    for name, hint in hints.items():
        if name in given and _flag(name, given[name]):
            raise _refused(name, given[name], "norms and scalars are not trained", hint)
    for name in ("dropout", "neuron_dropout"):
        if name in given and float(given[name]):
            hint = "give rank_dropout=P or module_dropout=P, and leave --network_dropout out"
            raise _refused(name, given[name], "LoKr has no dropout of single numbers: LyCORIS ignores it", hint)
    if "decompose_both" in given and not _flag("decompose_both", given["decompose_both"]):
        hint = "leave it out for a whole W1, or give decompose_both=True, which is what LyCORIS trains"
        raise _refused("decompose_both", given["decompose_both"], "LyCORIS reads any value of it as true", hint)
    if "disable_conv_cp" in given:
        hint = "give use_tucker=True or use_tucker=False"
        raise _refused("disable_conv_cp", given["disable_conv_cp"], "LyCORIS reads it as its opposite", hint)
    changed = sorted(_IGNORED_IN_BYPASS & set(given))
    if changed and "bypass_mode" in given and _flag("bypass_mode", given["bypass_mode"]):
        hint = f"leave out bypass_mode or {', '.join(changed)}"
        raise _refused("bypass_mode", given["bypass_mode"], f"with it LyCORIS ignores {', '.join(changed)}", hint)


def _refused(name: str, value: object, why: str, hint: str) -> LoKrValueError:
    return LoKrValueError(f"network_args: {name} is refused: {why}", found=f"{name}={value}", hint=hint)


def _flag(name: str, value: object) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise LoKrValueError(
            f"network_args: {name} is true or false", expected="True or False", found=f"{name}={value}"
        )
    return text == "true"


def _number(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise LoKrValueError(
            f"network_args: {name} is a number", expected="a number", found=f"{name}={value}"
        ) from None


def _whole(name: str, value: object) -> int:
    number = _number(name, value)
    if number != int(number):
        raise LoKrValueError(
            f"network_args: {name} is a whole number", expected="a whole number", found=f"{name}={value}"
        )
    return int(number)


def _patterns(name: str, value: object) -> tuple[re.Pattern[str], ...]:
    """A pattern, or a Python list of them in text, as sd-scripts takes it."""
    try:
        found = ast.literal_eval(str(value))
    except (ValueError, SyntaxError):
        expected = f"{name}=['PATTERN', ...]"
        raise LoKrValueError(f"network_args: {name} is a list of texts", expected=expected, found=str(value)) from None
    return tuple(_pattern(name, each) for each in ([found] if isinstance(found, str) else found))


def _pattern(name: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise LoKrValueError(f"network_args: {name} has a malformed pattern: {error}", found=text) from None


def _by_pattern(read: Callable[[str, object], Any]) -> Callable[[str, object], dict[re.Pattern[str], Any]]:
    """Reads "PATTERN=NUMBER,PATTERN=NUMBER"."""

    def parsed(name: str, value: object) -> dict[re.Pattern[str], Any]:
        found = {}
        for pair in filter(None, (each.strip() for each in str(value).split(","))):
            pattern, equals, number = pair.rpartition("=")
            if not equals:
                expected = f"{name}=PATTERN=NUMBER,PATTERN=NUMBER"
                raise LoKrValueError(f"network_args: {name} is malformed", expected=expected, found=pair)
            found[_pattern(name, pattern.strip())] = read(name, number.strip())
        return found

    return parsed


def _text(name: str, value: object) -> Preset:
    return preset_of(str(value))


_Reader = Callable[[str, object], Any]
# A layer's options in a preset, and the field of ``LoKrConfig`` that each sets.
_LAYER_OPTIONS: dict[str, tuple[str, _Reader]] = {
    "dim": ("r", _whole),
    "alpha": ("alpha", _number),
    "factor": ("decompose_factor", _whole),
    "decompose_both": ("decompose_both", _flag),
    "full_matrix": ("full_matrix", _flag),
    "use_tucker": ("use_effective_conv", _flag),
    "unbalanced_factorization": ("unbalanced", _flag),
    "rs_lora": ("rs_lora", _flag),
    "rank_dropout_scale": ("rank_dropout_scale", _flag),
    "weight_decompose": ("dora", _flag),
    "wd_on_out": ("wd_on_out", _flag),
}
_READ: dict[str, tuple[str, _Reader]] = {
    **{name: _LAYER_OPTIONS[name] for name in ("factor", "decompose_both", "full_matrix", "use_tucker", "rs_lora")},
    **{name: _LAYER_OPTIONS[name] for name in ("unbalanced_factorization", "rank_dropout_scale")},
    "use_cp": _LAYER_OPTIONS["use_tucker"],
    "use_conv_cp": _LAYER_OPTIONS["use_tucker"],
    "dora_wd": ("dora", _flag),
    "wd_on_output": ("wd_on_out", _flag),
    "rank_dropout": ("rank_dropout", _number),
    "module_dropout": ("module_dropout", _number),
    "conv_dim": ("conv_dim", _whole),
    "conv_alpha": ("conv_alpha", _number),
    "preset": ("preset", _text),
    "exclude_patterns": ("excluded", _patterns),
    "include_patterns": ("included", _patterns),
    "network_reg_dims": ("reg_dims", _by_pattern(_whole)),
    "network_reg_lrs": ("reg_lrs", _by_pattern(_number)),
    "loraplus_lr_ratio": ("loraplus_lr_ratio", _number),
    "loraplus_unet_lr_ratio": ("loraplus_unet_lr_ratio", _number),
    "loraplus_text_encoder_lr_ratio": ("loraplus_text_encoder_lr_ratio", _number),
    "train_t5xxl": ("train_t5xxl", _flag),
    "train_llm_adapter": ("train_llm_adapter", _flag),
}
# Checked by ``_refuse``, or of other algorithms, or about the log.
_WITHOUT_EFFECT = {
    *("algo", "dropout", "neuron_dropout", "use_scalar", "train_norm", "bypass_mode"),
    *("block_size", "constraint", "constrain", "rescaled", "warn_on_unmatched", "verbose"),
}
_IGNORED_IN_BYPASS = {"dora_wd", "rank_dropout"}
