"""Embeddings that a trainer packed into a file: which word, for which text encoder."""

from __future__ import annotations

import pytest
import torch

from lokr_core.formats import bundled_embeddings, parse_adapter
from tests.formats.lokr_tensors import keyed


def bundled(tensors: dict[str, torch.Tensor]):
    return bundled_embeddings(parse_adapter({**keyed("lora_unet_x"), **tensors}))


def test_each_word_has_the_vectors_of_its_encoders():
    (word,) = bundled({"bundle_emb.my.word.clip_l": torch.ones(2, 768), "bundle_emb.my.word.t5": torch.ones(2, 4096)})
    assert word.word == "my.word"
    assert word.modules == {"clip_l": "bundle_emb.my.word.clip_l", "t5": "bundle_emb.my.word.t5"}
    assert word.key_of("clip_l", 768) == "clip_l" and word.key_of("t5xxl", 4096) == "t5"
    assert word.key_of("clip_g", 1280) is None and word.key_of("clip_l", 1024) is None


def test_vectors_that_name_no_encoder_go_to_the_one_of_their_width():
    (word,) = bundled({"bundle_emb.word.string_to_param.*": torch.ones(3, 768)})
    assert word.word == "word" and word.key_of("clip_l", 768) == "*" and word.key_of("clip_h", 1024) is None


def test_a_single_vector_is_a_list_of_one():
    (word,) = bundled({"bundle_emb.word.clip_l": torch.ones(768)})
    assert word.vectors["clip_l"].shape == (1, 768)


@pytest.mark.parametrize("tensor", [torch.full((2, 768), torch.nan), torch.ones(2, 3, 768), torch.ones(())])
def test_what_is_no_list_of_finite_vectors_is_left_out(tensor):
    assert bundled({"bundle_emb.word.clip_l": tensor}) == []
    assert bundled({"bundle_emb.nameless": torch.ones(2, 768)}) == []


def test_a_file_without_any():
    assert bundled({}) == []
