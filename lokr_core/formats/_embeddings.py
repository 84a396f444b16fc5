"""Embeddings that a trainer packed into the file: words that were trained together with the adapter.

OneTrainer writes ``bundle_emb.WORD.ENCODER``, A1111's collection ``bundle_emb.WORD.string_to_param.*``, which names no
encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapter import Adapter, Foreign

_PREFIX, _ANY, _UNNAMED = "bundle_emb.", "*", ".string_to_param.*"

# ComfyUI's key of an encoder -> OneTrainer's, where they differ.
_ALSO = {"t5xxl": "t5"}


@dataclass(frozen=True, eq=False)
class BundledEmbedding:
    """A word and its vectors.

    word: what a prompt says for it
    vectors: key of a text encoder ("clip_l", "clip_g", "t5"), "*" if the file names none -> (n, width)
    modules: the same keys -> the file's module, by which a report has it
    """

    word: str
    vectors: Mapping[str, Tensor]
    modules: Mapping[str, str]

    def key_of(self, encoder: str, width: int) -> str | None:
        """The key of the vectors for a text encoder whose embeddings have ``width`` numbers.

        encoder: ComfyUI's key of it. Returns None if the file has none of that width for it.

        >>> BundledEmbedding("word", {"t5": torch.ones(2, 8)}, {"t5": "bundle_emb.word.t5"}).key_of("t5xxl", 8)
        't5'
        """
        keys = (encoder, _ALSO.get(encoder, encoder), _ANY)
        return next((key for key in keys if key in self.vectors and self.vectors[key].shape[1] == width), None)


def bundled_embeddings(adapter: Adapter) -> list[BundledEmbedding]:
    """The embeddings in the adapter's file, in the order of their words. Tensors that are no list of finite vectors are
    left out, and stay refused in the report.

    >>> foreign = Foreign({"bundle_emb.word.clip_l": torch.ones(3, 768)})
    >>> [(embedding.word, list(embedding.vectors)) for embedding in bundled_embeddings(Adapter({}, foreign=foreign))]
    [('word', ['clip_l'])]
    """
    bundled = []
    for word, keys in _words(adapter.foreign).items():
        vectors = {encoder: torch.atleast_2d(adapter.foreign.tensors[key]) for encoder, key in keys.items()}
        vectors = {e: v for e, v in vectors.items() if v.ndim == 2 and v.numel() > 1 and bool(torch.isfinite(v).all())}
        if vectors:
            bundled.append(BundledEmbedding(word, vectors, {encoder: keys[encoder] for encoder in vectors}))
    return bundled


def _words(foreign: Foreign) -> dict[str, dict[str, str]]:
    """Word -> key of an encoder -> the tensor's key in the file."""
    found: dict[str, dict[str, str]] = {}
    for key in foreign.tensors:
        if key.startswith(_PREFIX):
            rest = key.removeprefix(_PREFIX)
            unnamed = rest.endswith(_UNNAMED)
            word, encoder = (rest.removesuffix(_UNNAMED), _ANY) if unnamed else rest.rpartition(".")[::2]
            if word:
                found.setdefault(word, {})[encoder] = key
    return found
