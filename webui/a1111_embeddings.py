"""Embeddings packed into an adapter's file, in A1111's database of embeddings: a prompt calls them by their word."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from modules import sd_hijack
from modules.textual_inversion.textual_inversion import create_embedding_from_data
from torch import nn

from lokr_core.formats import BundledEmbedding


def lend(model: nn.Module, embeddings: Iterable[BundledEmbedding]) -> tuple[set[str], Callable[[], None]]:
    """See ``Host.lend_embeddings``; ``model``: the host's own object. Embeddings of another width are left out."""
    database, lent, used = sd_hijack.model_hijack.embedding_db, {}, set()
    for each in embeddings:
        keys = ["*"] if "*" in each.vectors else [key for key in ("clip_l", "clip_g") if key in each.vectors]
        taken = database.word_embeddings.get(each.word)
        # What the built-in Lora extension took from a file has this attribute; the rest is the user's.
        if not keys or (taken is not None and not hasattr(taken, "loaded")):
            continue
        data = {key: each.vectors[key] for key in keys}
        embedding = create_embedding_from_data({"string_to_param": data} if keys == ["*"] else data, each.word)
        if database.expected_shape in (-1, embedding.shape):
            if taken is not None:  # of its last run: it would take the word away, whoever has it
                taken.loaded = False
            lent[each.word] = database.register_embedding(embedding, model)
            used |= {each.modules[key] for key in keys}

    def take_back() -> None:
        for word, embedding in lent.items():
            if database.word_embeddings.get(word) is embedding:
                database.register_embedding_by_name(None, model, word)

    return used, take_back
