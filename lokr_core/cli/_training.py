"""What ``lokr train`` and the examples share: options, the progress bar and the summary."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..display import Progress, progress_bar
from ..errors import LoKrFileError
from ..saving import SPELLINGS, save_adapter
from ..training import FILES, OPTIMIZERS, PRECISIONS, SCHEDULES, Batch, TrainSettings, accelerator_for, train

ADAPTER_NAME = "lokr.safetensors"

_SETTINGS = {
    "steps": "how many in all",
    "batch_size": "examples per step, over all processes",
    "learning_rate": "of the optimizer, or what Prodigy's own is multiplied by",
    "weight_decay": "of the optimizer",
    "seed": "of the order of examples, the noise and the adapter",
    "save_every": "steps between checkpoints",
    "accumulate": "parts in which a process computes its share of a batch, to save memory",
    "optimizer": "adamw8bit needs bitsandbytes, prodigy prodigyopt",
    "schedule": "of the learning rate after its warm-up",
    "warmup": "steps in which the learning rate rises",
    "clip": "largest norm of the gradient, 0 for any",
}
_CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
# gloo's threads release a collective's tensors only after its result has arrived, under the interpreter's lock. A
# thread that takes the lock while the interpreter shuts down aborts the process with SIGABRT (3 % of the trainings with
# FSDP2 and torch 2.13), and destroying the group does not wait for the threads. Seconds.
_RELEASE_TIME = 0.2


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
        kind, choices = type(settings[name]), _CHOICES.get(name)
        parser.add_argument(option, type=kind, choices=choices, default=settings[name], help=f"{what} (%(default)s)")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="the training in DIR, which has to be there; --no-resume: start anew (default: resume if there is one)",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the computation (%(default)s)")
    parser.add_argument("--format", choices=SPELLINGS, default=format, help="of the adapter's file (%(default)s)")


def run(
    model: Any,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    examples: int,
    options: argparse.Namespace,
    save: Callable[[bool], None] | None = None,
    *,
    accelerator: Any = None,
    after: Progress | None = None,
    **how: Any,
) -> Trained | None:
    """Train ``model`` (a ``LoKrModel``) as ``add_arguments``' options say, in the processes of ``accelerate launch``.

    loss_of, examples: as in ``train``, like anything else in ``how``
    save: writes the adapter; called in every process, with True in the one that writes. By default ``save_adapter`` to
        ``ADAPTER_NAME`` in ``options.format``
    accelerator: None: a new one; after: called in every process with (steps done, steps in all)

    Returns None in every process but the first. Raises what ``train`` and ``save`` raise, LoKrError if accelerate is
    not installed.
    """

    def save_to_out(is_first: bool) -> None:
        adapter = model.to_adapter()  # gathers, so every process calls it
        if is_first:
            save_adapter(adapter, options.out / ADAPTER_NAME, format=options.format, model=model.get_base_model())

    settings = TrainSettings(**{name: getattr(options, name) for name in _SETTINGS})
    accelerator = accelerator or accelerator_for(options.precision, _drops_layers(model))
    is_first = accelerator.is_main_process
    _check_resumption(options, is_first)
    accelerator.wait_for_everyone()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with progress_bar("training", " steps") as bar:

        def progress(done: int, total: int) -> None:
            if is_first:
                bar(done, total)
            if after:
                after(done, total)

        write = save or save_to_out
        losses = train(model, loss_of, examples, settings, options.out, write, accelerator, progress, **how)
    _end(accelerator)
    if not is_first:
        return None
    tenth = max(1, len(losses) // 10)
    means = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return Trained(str(options.out), len(losses), *means, trainable, accelerator.num_processes)


def _end(accelerator: Any) -> None:
    accelerator.end_training()
    if accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        time.sleep(_RELEASE_TIME)


def _drops_layers(model: nn.Module) -> bool:
    """Whether module dropout leaves layers of the model without gradients."""
    return any(any(getattr(module, "module_dropout", {}).values()) for module in model.modules())


def _check_resumption(options: argparse.Namespace, is_first: bool) -> None:
    """Raises LoKrFileError if there is nothing to resume and --resume asks for it; --no-resume removes the state."""
    state = options.out / FILES[0]
    if options.resume and not state.exists():
        raise LoKrFileError(
            "There is no training to resume", file=state, hint="check --out, or start one without --resume"
        )
    if options.resume is False and is_first:
        state.unlink(missing_ok=True)
