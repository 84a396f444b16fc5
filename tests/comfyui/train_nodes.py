"""Nodes for test_train.py, linked into a server's ``custom_nodes``: pictures without a VAE, and a model that fails."""

from __future__ import annotations

import time

import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io


def pattern(channels: int, height: int, width: int) -> torch.Tensor:
    """A picture of its own kind: waves, others in each channel (1, channels, height, width)."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([torch.sin(x / (1 + k % 3) + k) + torch.cos(y / 2 + k) for k in range(channels)])[None]


class TestPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        numbers = [io.Int.Input("channels"), io.String.Input("sizes"), io.Boolean.Input("nan", optional=True)]
        latents = io.Latent.Output(is_output_list=True)
        return io.Schema(node_id="TestPictures", category="test", inputs=numbers, outputs=[latents])

    @classmethod
    def execute(cls, channels, sizes, nan=False) -> io.NodeOutput:
        """A latent for each of ``sizes``: "8x8, 8x16"."""
        found = [pattern(channels, *map(int, size.split("x"))) for size in sizes.split(",") if size.strip()]
        return io.NodeOutput([{"samples": torch.full_like(each, torch.nan) if nan else each} for each in found])


class TestPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        prompts = io.Conditioning.Output(is_output_list=True)
        return io.Schema(node_id="TestPrompts", category="test", inputs=[io.String.Input("tokens")], outputs=[prompts])

    @classmethod
    def execute(cls, tokens) -> io.NodeOutput:
        """A random conditioning with each number of tokens: "8, 16"."""
        generator = torch.Generator().manual_seed(1)

        def prompt(count: int) -> list:
            pooled = torch.randn(1, 768, generator=generator)
            return [[torch.randn(1, count, 768, generator=generator), {"pooled_output": pooled}]]

        return io.NodeOutput([prompt(int(count)) for count in tokens.split(",")])


class TestFailing(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.Int.Input("call"), io.Combo.Input("fails", options=["memory", "nan"])]
        return io.Schema(
            node_id="TestFailing", category="test", inputs=inputs, outputs=[io.Model.Output()], not_idempotent=True
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return time.time()  # its count of calls starts anew with each run

    @classmethod
    def execute(cls, model, call, fails) -> io.NodeOutput:
        """The model, whose call of this number fails as a GPU without memory does, or gives NaN."""
        calls = []

        def called(apply_model, given: dict):
            calls.append(None)
            if len(calls) < call:
                return apply_model(given["input"], given["timestep"], **given["c"])
            if fails == "memory":
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return apply_model(given["input"], given["timestep"], **given["c"]) * torch.nan

        model = model.clone()
        model.set_model_unet_function_wrapper(called)
        return io.NodeOutput(model)


class TestDigest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model")]
        return io.Schema(
            node_id="TestDigest", category="test", inputs=inputs, outputs=[], is_output_node=True, not_idempotent=True
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return time.time()

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        """A sum over the bytes of each of the model's weights, by name, and the loras folder's files."""
        sums = {}
        for name, tensor in sorted(model.model.state_dict().items()):
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            sums[name] = int((data.to(torch.int64) * (torch.arange(len(data)) % 251 + 1)).sum())
        return io.NodeOutput(ui={"sums": [sums], "files": [folder_paths.get_filename_list("loras")]})


class TestExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestPictures, TestPrompts, TestFailing, TestDigest]


async def comfy_entrypoint() -> TestExtension:
    return TestExtension()
