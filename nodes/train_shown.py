"""What LoKr Train shows while it runs: ComfyUI's progress bar, and for the page the loss, its curve and a sample."""

from __future__ import annotations

import base64
import io as bytes_io
import time
from collections.abc import Sequence

import latent_preview
import numpy as np
import torch
from comfy.utils import ProgressBar
from PIL import Image
from server import PromptServer

from ..lokr_core.display import curve_points

EVENT = "lokr.train"
_BETWEEN = 0.5  # seconds between two messages
_LARGEST = 512  # pixels of a sample on the node


class Shown:
    """The node's face while it trains.

    node: the node's id in its graph, None if it is called from code; steps: of the whole training
    """

    def __init__(self, node: str | None, steps: int):
        self.node, self.steps, self.losses = node, steps, []
        self._bar, self._last, self._begun, self._sample = ProgressBar(steps), 0.0, time.monotonic(), None
        self._first = 0

    def begin(self, losses: Sequence[float]) -> None:
        """The steps that a checkpoint held already."""
        self.losses, self._first, self._begun = losses, len(losses), time.monotonic()

    @property
    def seconds(self) -> float:
        """The mean time of this run's steps, samples included."""
        return (time.monotonic() - self._begun) / max(1, len(self.losses) - self._first)

    def step(self, losses: Sequence[float]) -> None:
        """A step was taken."""
        self.losses = losses
        self._bar.update_absolute(len(losses), self.steps)
        if time.monotonic() - self._last >= _BETWEEN:
            self.send()

    def sample(self, picture: Image.Image) -> None:
        """Show a picture that the model painted."""
        picture = picture.convert("RGB")
        picture.thumbnail((_LARGEST, _LARGEST))
        stored = bytes_io.BytesIO()
        picture.save(stored, "JPEG", quality=90)
        self._sample = "data:image/jpeg;base64," + base64.b64encode(stored.getvalue()).decode()
        self.send(sample=self._sample)

    def send(self, **more: object) -> None:
        """Tell the page that runs the workflow."""
        self._last = time.monotonic()
        if self.node is not None:
            server = PromptServer.instance
            server.send_sync(EVENT, {**self.state(), **more}, server.client_id)

    def state(self) -> dict:
        """What the page draws."""
        known = {"node": self.node, "step": len(self.losses), "steps": self.steps, "seconds": round(self.seconds, 3)}
        return {**known, "curve": curve_points(self.losses)}

    def final(self, file: str, text: str) -> dict:
        """The node's ui output: the last state, with the file that it wrote."""
        return {"lokr_train": [{**self.state(), "sample": self._sample, "file": file, "text": text}]}


def decoded(latent: torch.Tensor, patcher, vae) -> Image.Image | None:
    """A sampled latent as a picture, through ``vae`` or, if None, ComfyUI's latent preview; None if it has neither.

    latent: (1, channels, …, height, width) in the model's scale
    """
    if vae is not None:
        images = vae.decode(patcher.model.process_latent_out(latent.float()).cpu())
        pixels = images.reshape(-1, *images.shape[-3:])[0]
        return Image.fromarray(np.clip(255.0 * pixels.cpu().numpy(), 0, 255).round().astype(np.uint8))
    latents = patcher.model.latent_format
    previewer = latent_preview.get_previewer(patcher.load_device, latents)
    if (
        previewer is None and latents.latent_rgb_factors is not None
    ):  # ComfyUI's previews are off; this one was asked for
        factors = latents.latent_rgb_factors, latents.latent_rgb_factors_bias, latents.latent_rgb_factors_reshape
        previewer = latent_preview.Latent2RGBPreviewer(*factors)
    return None if previewer is None else previewer.decode_latent_to_preview_image("JPEG", latent)[1]
