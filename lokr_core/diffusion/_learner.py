"""The module that is trained: a denoiser and the text encoders that are trained with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._family import Family
from ._text import Encoder


class Learner(nn.Module):
    """Noisy latents and captions -> the denoiser's prediction.

    Its children have the names of the pipeline's components, which the adapter's modules begin with.
    """

    def __init__(self, family: Family, denoiser: Any, encoders: Mapping[Encoder, nn.Module]):
        super().__init__()
        self._family, self._encoders = family, tuple(encoders)
        self.add_module(family.denoiser, denoiser)
        for encoder, model in encoders.items():
            self.add_module(encoder.name, model)
        # For FSDP: the classes of which each module is gathered by itself.
        inside = {type(module).__name__ for module in self.modules()}
        models = (denoiser, *encoders.values())
        kept = [name for model in models for name in getattr(model, "_no_split_modules", None) or ()]
        self._no_split_modules = [name for name in kept if name in inside]

    @property
    def denoiser(self) -> Any:
        return self.get_submodule(self._family.denoiser)

    def embeddings(self, outputs: Mapping[str, Tensor], tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the denoiser takes of captions.

        outputs: of the encoders that are not trained, by name; tokens: encoder -> (n, tokens) of the trained ones
        """
        found = dict(outputs)
        for encoder in self._encoders:
            found |= encoder.encode(self.get_submodule(encoder.name), tokens[encoder.name])
        joined = self._family.joined(found, self.denoiser)
        return {name: tensor.to(self.denoiser.dtype) for name, tensor in joined.items()}

    def forward(
        self,
        noisy: Tensor,
        times: Tensor,
        outputs: Mapping[str, Tensor],
        tokens: Mapping[str, Tensor],
        sizes: Mapping[str, Tensor],
    ) -> Tensor:
        """Its prediction in fp32, of the shape of ``noisy`` (n, channels, h, w).

        times: (n,); outputs, tokens: as in ``embeddings``; sizes: as the family's ``predict`` takes them
        """
        text = self.embeddings(outputs, tokens)
        return self._family.predict(self.denoiser, noisy.to(self.denoiser.dtype), times, text, sizes).float()

    def checkpoint_gradients(self) -> None:
        """Keep only the inputs of blocks for the backward pass, which computes the rest again."""
        self.denoiser.enable_gradient_checkpointing()
        for encoder in self._encoders:
            model: Any = self.get_submodule(encoder.name)
            # The second is its name in transformers before 5.
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def stacked(texts: list[dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """The encoders' outputs for several captions, each by name, as batches."""
    return {name: torch.stack([text[name] for text in texts]).to(device) for name in texts[0]}
