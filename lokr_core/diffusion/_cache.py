"""Latents and text embeddings on disk, computed once: a file per picture and per caption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import load_tensors, save_tensors
from ..display import Progress
from ._latents import encode
from ._pictures import Picture
from ._source import Source
from ._text import Encoder

_VERSION = 1


@dataclass(frozen=True)
class Cache:
    """A folder of latents and text embeddings.

    frozen: the text encoders whose outputs are stored; captions of the others are encoded in each step
    dtype: of the text encoders
    """

    folder: Path
    source: Source
    frozen: tuple[Encoder, ...]
    dtype: torch.dtype

    def latents(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """The (mean, standard deviation) of a picture's latents, (channels, h, w)."""
        tensors, _ = load_tensors(self._picture(picture))
        return tensors["mean"], tensors["deviation"]

    def text(self, caption: str) -> dict[str, Tensor]:
        """The outputs of the frozen encoders for a caption, by name."""
        if not self.frozen:
            return {}
        tensors, _ = load_tensors(self._caption(caption))
        return tensors

    def fill(
        self,
        pictures: Sequence[Picture],
        captions: Iterable[str],
        device: torch.device,
        rank: int = 0,
        count: int = 1,
        progress: Callable[[str], Progress] | None = None,
    ) -> None:
        """Compute what is missing; of ``count`` processes, this one the share of ``rank``.

        The encoders are loaded one after the other, only if something is missing, and are not kept. progress: (what is
        computed) -> a progress bar. Raises LoKrFileError if a picture or a component cannot be read.
        """
        todo = [picture for picture in pictures[rank::count] if not self._picture(picture).exists()]
        if todo:
            vae = self.source.component("vae").to(device)
            for picture in _shown(todo, progress, "latents"):
                mean, deviation = (t[0].cpu().contiguous() for t in encode(vae, picture.pixels()[None]))
                save_tensors({"mean": mean, "deviation": deviation}, self._picture(picture))
            del vae
        texts = sorted(set(captions)) if self.frozen else []
        texts = [text for text in texts[rank::count] if not self._caption(text).exists()]
        if texts:
            self._encode(texts, device, progress)

    @torch.no_grad()
    def _encode(self, texts: list[str], device: torch.device, progress: Callable[[str], Progress] | None) -> None:
        found: dict[str, dict[str, Tensor]] = {text: {} for text in texts}
        for encoder in self.frozen:
            model = self.source.component(encoder.name, self.dtype)
            if model is None:  # Stable Diffusion 3 without T5
                continue
            model, tokenizer = model.to(device), self.source.component(encoder.tokenizer)
            for text in _shown(texts, progress, encoder.name):
                outputs = encoder.encode(model, encoder.tokens(tokenizer, [text]).to(device))
                found[text] |= {name: tensor[0].cpu().contiguous() for name, tensor in outputs.items()}
            del model
        for text, tensors in found.items():
            save_tensors(tensors, self._caption(text))

    def _picture(self, picture: Picture) -> Path:
        status = picture.path.stat()
        file = [picture.path.name, status.st_size, status.st_mtime_ns, picture.bucket]
        return self._file("latents", file, ("vae",))

    def _caption(self, caption: str) -> Path:
        return self._file("text", [caption, str(self.dtype)], tuple(encoder.name for encoder in self.frozen))

    def _file(self, kind: str, content: Any, components: tuple[str, ...]) -> Path:
        """Named by all that it depends on."""
        key = [_VERSION, content, components, self.source.stamp(components)]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.safetensors"


def _shown(items: list, progress: Callable[[str], Progress] | None, what: str) -> Iterable:
    """The items, each told to a progress bar after its use."""
    show = progress(what) if progress else None
    for done, item in enumerate(items, 1):
        yield item
        if show:
            show(done, len(items))
