"""The expected value of attached adapters: the output of the model that they are merged into."""

from __future__ import annotations

from lokr_core import LiveHandle, merge_adapter


def merged_output(model, adapter, index, strength=1.0):
    handles = LiveHandle.of(model)
    for handle in handles:
        handle.enabled = False
    with merge_adapter(model, adapter, strength):
        output = model(index)
    for handle in handles:
        handle.enabled = True
    return output
