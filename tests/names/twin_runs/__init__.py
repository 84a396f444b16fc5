"""How to run each pair of twins: inputs, and both models' calling conventions made one.

A runner takes a model and the inputs of `Run.inputs` and returns the output as ComfyUI lays it out. Timesteps are in
0..1 where the architecture counts so, else in 0..1000.
"""

from __future__ import annotations

from . import audio, flux, image, unet, video
from .run import Run

RUNS: dict[str, Run] = {**unet.RUNS, **flux.RUNS, **image.RUNS, **video.RUNS, **audio.RUNS}
