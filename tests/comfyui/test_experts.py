"""A file with both experts of a model: the nodes' input ``expert``, and a tag's."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from tests.comfyui.test_nodes import error_of, near, prompt_of, run, stack, tagged
from tests.comfyui.test_server import LAYERS, image, loader, lokr, server  # noqa: F401  (server is a fixture)

BOTH, ALONE = "both.safetensors", {"high": "style.safetensors", "low": "other.safetensors"}


@pytest.fixture
def both(server):  # noqa: F811
    """A file whose experts have the denoiser's updates of the two files of one model."""
    tensors = {}
    for seed, number in ((0, 1), (1, 2)):
        for name, tensor in lokr(LAYERS, seed).items():
            if name.startswith("lora_unet_"):
                tensors[name.replace("lora_unet_", f"lora_unet_transformer_{number}_")] = tensor
    save_file(tensors, str(server.base / "models/loras" / BOTH))
    return server


@pytest.mark.parametrize("expert", ALONE)
def test_the_loader_the_stack_and_a_tag_take_the_expert_that_is_chosen(both, expert):
    right = image(both, loader(ALONE[expert], 0.7, 0.0))
    one = loader(BOTH, 0.7)
    one["inputs"]["expert"] = expert
    for prompt in (
        prompt_of(one),
        prompt_of(stack((True, BOTH, 0.7), expert=expert)),
        prompt_of(tagged(f"a lighthouse <lokr:both:0.7:expert={expert}>")),
    ):
        seen, report, _ = run(both, prompt)
        assert near(seen, right) and f"the {expert} noise expert is used" in report


def test_without_a_choice_the_error_says_two_experts(both):
    said = error_of(both, prompt_of(loader(BOTH)))["exception_message"]
    assert "two experts" in said and "expert=high" in said


@pytest.mark.parametrize("node", ["LoKrLoader", "LoKrLoaderModelOnly", "LoKrStack", "LoKrStrengthGrid"])
def test_the_input_is_behind_all_of_before_and_may_be_left_out(server, node):  # noqa: F811
    inputs = server.get(f"/object_info/{node}")[node]["input"]
    names = [name for name in inputs["optional"] if name != "skip_words"]  # which came later
    assert names[-1] == "expert" and "expert" not in inputs["required"]
    assert "skip_words" not in list(inputs["optional"])[: len(names)]
