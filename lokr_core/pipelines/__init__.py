"""LoKr adapters on a diffusers pipeline in diffusers' words; ``attach`` and ``merge_adapter`` take a pipeline too."""

from ._adapters import PipelineAdapters, load_lokr_weights

__all__ = ["PipelineAdapters", "load_lokr_weights"]
