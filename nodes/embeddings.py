"""Embeddings packed into an adapter's file, for a CLIP's tokenizer: a prompt calls them `embedding:WORD`."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from comfy.sd1_clip import SDTokenizer
from torch import Tensor

from ..lokr_core.adapter import Adapter
from ..lokr_core.formats import bundled_embeddings


def with_embeddings(tokenizer, adapter: Adapter) -> tuple[object, set[str]]:
    """A copy of a CLIP's tokenizer that knows the embeddings of the adapter's file, and the file's modules in use.

    A file of the same name in ComfyUI's embeddings folder comes first.
    """
    bundled = bundled_embeddings(adapter)
    known, used = copy.copy(tokenizer), set()
    for name, part in vars(tokenizer).items():
        if isinstance(part, SDTokenizer):
            keys = {each: each.key_of(part.embedding_key, part.embedding_size) for each in bundled}
            used |= {each.modules[key] for each, key in keys.items() if key is not None}
            words = {each.word: each.vectors[key] for each, key in keys.items() if key is not None}
            if words:
                setattr(known, name, _knowing(part, words))
    return known, used


def _knowing(tokenizer: SDTokenizer, words: Mapping[str, Tensor]) -> SDTokenizer:
    """A copy of one encoder's tokenizer that knows ``words``: word -> (n, width)."""
    theirs = tokenizer._try_get_embedding

    def find(text: str) -> tuple[Tensor | None, str, str]:
        """(vectors, word, the text behind it), as ComfyUI's own: its first word is the embedding's."""
        found = theirs(text)
        word, _, rest = text.partition(" ")
        bare = word.rstrip(",")
        if found[0] is None and bare in words:
            return words[bare], bare, " ".join(part for part in (word[len(bare) :], rest) if part)
        return found

    known = copy.copy(tokenizer)
    known._try_get_embedding = find
    # Without a folder ComfyUI would not look for embeddings.
    known.embedding_directory = tokenizer.embedding_directory or []
    return known
