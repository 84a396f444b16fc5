"""What trainers write in a file's metadata, as answers to what people ask. It is anyone's text: nothing is trusted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

_BASE_MODEL = (
    "ss_base_model_version",
    "modelspec.architecture",
    "ss_sd_model_name",
    "modelspec.implementation",
    "modelspec.resolution",
    "base_model_name_or_path",
)
_TITLE = ("modelspec.title", "ss_output_name", "name")
_SETTINGS = (
    ("module", "ss_network_module"),
    ("dim", "ss_network_dim"),
    ("alpha", "ss_network_alpha"),
    ("steps", "ss_steps"),
    ("learning rate", "ss_learning_rate"),
)
_TRIGGERS = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_word", "trigger_words", "activation_text")
_LONGEST = 120  # characters shown of one value


def title(metadata: Mapping[str, str]) -> str:
    """What the adapter calls itself, "" where it does not."""
    return next((_short(metadata[key]) for key in _TITLE if _said(metadata.get(key))), "")


def base_model(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata key -> what it says about the base model."""
    adapter_config = _json(metadata.get("lora_adapter_metadata"), dict)
    peft = {key.rpartition(".")[2]: str(value) for key, value in adapter_config.items() if value}
    found = {**peft, **metadata}
    return {key: _short(found[key]) for key in _BASE_MODEL if _said(found.get(key))}


def trained_with(metadata: Mapping[str, str]) -> dict[str, str]:
    """The trainer's settings, ``ss_network_args`` spread out."""
    settings = {label: _short(metadata[key]) for label, key in _SETTINGS if _said(metadata.get(key))}
    arguments = _json(metadata.get("ss_network_args"), dict)
    return {**settings, **{str(key): _short(value) for key, value in arguments.items() if _said(value)}}


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """Words that the trainer says bring the adapter out."""
    phrases = [metadata[key] for key in _TRIGGERS if _said(metadata.get(key))]
    words = [word.strip() for phrase in phrases for word in phrase.split(",")]
    return [_short(word) for word in dict.fromkeys(words) if word]


def frequent_tags(metadata: Mapping[str, str], most: int = 8) -> dict[str, int]:
    """Tag of the training captions -> how many images have it, from kohya's ``ss_tag_frequency``."""
    counts: Counter[str] = Counter()
    for tags in _json(metadata.get("ss_tag_frequency"), dict).values():
        if isinstance(tags, dict):
            counts.update({str(tag).strip(): n for tag, n in tags.items() if isinstance(n, int)})
    return {_short(tag): count for tag, count in counts.most_common(most)}


def _json(text: str | None, kind: type):
    try:
        value = json.loads(text or "")
    except (TypeError, ValueError, RecursionError):
        return kind()
    return value if isinstance(value, kind) else kind()


def _said(value: object) -> bool:
    return value is not None and str(value).strip() not in ("", "None", "null")


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
