"""Large files: the time grows with the number of keys, and not with its square; any text may be a name."""

from __future__ import annotations

import time

import pytest
import torch

from lokr_core import load_adapter, save_adapter
from lokr_core.formats import parse_adapter, split_keys
from tests.formats.lokr_tensors import file_of, keyed, lokr


def large(modules: int, spelling: str) -> dict[str, torch.Tensor]:
    tensors = lokr(alpha=None if spelling == "peft" else 2)
    names = {
        "kohya": "lora_unet_blocks_{}_attn_to_q", "peft": "base_model.model.blocks.{}.attn.to_q",
        "own": "mine_blocks_{}_attn_to_q", "one path": "lora_unet_blocks_{}_attn_to_q",
    }  # fmt: skip
    return {key: t for n in range(modules) for key, t in keyed(names[spelling].format(n), tensors).items()}


def seconds(tensors: dict) -> float:
    start = time.process_time()
    parse_adapter(tensors)
    return time.process_time() - start


@pytest.mark.parametrize("spelling", ["kohya", "peft", "own"])
def test_a_hundred_thousand_keys(spelling):
    """Eight times the keys take about eight times as long: 64 would be the square."""
    few, many = large(3_000, spelling), large(24_000, spelling)
    assert len(many) >= 72_000
    seconds(few)
    # The best of three attempts, as soon as one is enough.
    assert any(seconds(many) / seconds(few) < 24 for _ in range(3))


def test_a_hundred_thousand_keys_of_no_known_kind():
    tensors = {f"{'a.b_' * 20}{number}.weird": torch.ones(1) for number in range(100_000)}
    start = time.process_time()
    parts = split_keys(tensors | keyed("lora_unet_x"))
    assert time.process_time() - start < 10
    assert len(parts.foreign.modules) == 100_000


@pytest.mark.parametrize(
    "module",
    [
        "größe.注意",
        "lora_unet_größe_注意",
        "lycoris_🎨",
        "a b.c\td",
        "a\nb.c",
        "'quoted\".x",
        "ﬁ.x",
        "e\u0301.x",
        "...x",
    ],
)
def test_any_text_is_a_name(tmp_path, module):
    adapter = parse_adapter(file_of(module, alpha=4))
    assert list(adapter) == [module] and adapter.names[module].full == module and adapter[module].scaling == 2
    save_adapter(adapter, tmp_path / "a.safetensors")
    again = load_adapter(tmp_path / "a.safetensors")
    assert list(again) == [module] and torch.equal(again[module].delta(), adapter[module].delta())
