"""Answers from a file's metadata, which anyone may have written: no value is trusted to be well-formed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .._files import json_object

_TITLE = ("modelspec.title", "ss_output_name", "name")
_SETTINGS = (
    ("module", "ss_network_module"),
    ("dim", "ss_network_dim"),
    ("alpha", "ss_network_alpha"),
    ("steps", "ss_steps"),
    ("learning rate", "ss_learning_rate"),
)
_TRIGGERS = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_word", "trigger_words", "activation_text")
_MAX_LENGTH = 120  # characters shown of one value


def title(metadata: Mapping[str, str]) -> str:
    """The adapter's title, or "" if it has none."""
    return next((_short(metadata[key]) for key in _TITLE if _has_value(metadata.get(key))), "")


def trained_with(metadata: Mapping[str, str]) -> dict[str, str]:
    """The trainer's settings, including each of ``ss_network_args``."""
    settings = {label: _short(metadata[key]) for label, key in _SETTINGS if _has_value(metadata.get(key))}
    arguments = json_object(metadata.get("ss_network_args"))
    return {**settings, **{str(key): _short(value) for key, value in arguments.items() if _has_value(value)}}


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """The words of a prompt that activate the adapter."""
    phrases = [metadata[key] for key in _TRIGGERS if _has_value(metadata.get(key))]
    words = [word.strip() for phrase in phrases for word in phrase.split(",")]
    return [_short(word) for word in dict.fromkeys(words) if word]


def frequent_tags(metadata: Mapping[str, str], most: int = 8) -> dict[str, int]:
    """The ``most`` frequent tags of the training captions -> number of images, from kohya's ``ss_tag_frequency``."""
    counts: Counter[str] = Counter()
    for tags in json_object(metadata.get("ss_tag_frequency")).values():
        if isinstance(tags, dict):
            counts.update({str(tag).strip(): n for tag, n in tags.items() if isinstance(n, int)})
    return {_short(tag): count for tag, count in counts.most_common(most)}


def _has_value(value: object) -> bool:
    return value is not None and str(value).strip() not in ("", "None", "null")


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1] + "…"
