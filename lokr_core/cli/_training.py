"""What ``lokr train`` and the examples share: options, processes, the progress bar and the summary."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..display import progress_bar
from ..saving import SPELLINGS, save_adapter
from ..training import FILES, Batch, TrainSettings, processes, train

ADAPTER_NAME = "lokr.safetensors"

_SETTINGS = {
    "steps": "how many in all",
    "batch_size": "examples per step, over all processes",
    "learning_rate": "of AdamW",
    "weight_decay": "of AdamW",
    "seed": "of the order of examples, the noise and the adapter",
    "save_every": "steps between checkpoints",
}


@dataclass(frozen=True)
class Trained:
    """The summary of a training. ``first_loss`` and ``last_loss`` are means over a tenth of the steps."""

    folder: str
    steps: int
    first_loss: float
    last_loss: float
    parameters: int
    processes: int

    def as_dict(self) -> dict:
        return asdict(self)

    def text(self) -> str:
        """For a person."""
        state, losses, picture = FILES
        many = f" in {self.processes} processes" if self.processes > 1 else ""
        return (
            f"{self.parameters:,} parameters trained for {self.steps} steps{many}: "
            f"loss {self.first_loss:.4g} -> {self.last_loss:.4g}\n"
            f"in {self.folder}: the adapter, {picture}, {losses}, and {state}, from which the same "
            "command resumes"
        )


def add_arguments(parser: argparse.ArgumentParser, out: str, format: str = "kohya", **defaults: object) -> None:
    """Add the options of a training; ``defaults`` replace those of ``TrainSettings``."""
    settings = {**asdict(TrainSettings()), **defaults}
    parser.add_argument(
        "-o", "--out", type=Path, default=Path(out), metavar="DIR", help="folder (default: %(default)s)"
    )
    for name, what in _SETTINGS.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(settings[name]), default=settings[name], help=f"{what} (%(default)s)")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp", help="under torchrun (%(default)s)")
    parser.add_argument("--format", choices=SPELLINGS, default=format, help="of the adapter's file (%(default)s)")


def run(
    model: Any,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    examples: int,
    options: argparse.Namespace,
    save: Callable[[bool], None] | None = None,
) -> Trained | None:
    """Train ``model`` (a ``LoKrModel``) as ``add_arguments``' options say, in one process or torchrun's.

    loss_of, examples: as in ``train``
    save: writes the adapter; called in every process, with True in the one that writes. By default ``save_adapter`` to
        ``ADAPTER_NAME`` in ``options.format``

    Returns None in every process but the first. Raises what ``train`` and ``save`` raise.
    """

    def save_to_out(is_first: bool) -> None:
        adapter = model.to_adapter()  # gathers, so every process calls it
        if is_first:
            save_adapter(adapter, options.out / ADAPTER_NAME, format=options.format, model=model.get_base_model())

    settings = TrainSettings(**{name: getattr(options, name) for name in _SETTINGS})
    with processes() as group, progress_bar("training", " steps") as bar:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        spread = group.spread(model, options.parallel)
        progress = bar if group.is_first else None
        losses = train(spread, loss_of, examples, settings, options.out, save or save_to_out, group, progress)
    if not group.is_first:
        return None
    tenth = max(1, len(losses) // 10)
    means = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return Trained(str(options.out), len(losses), *means, trainable, group.count)
