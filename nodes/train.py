"""The node that trains a LoKr on a MODEL, and writes it to the loras folder."""

from __future__ import annotations

import comfy.model_management as management
import torch
from comfy_api.latest import io

from ..lokr_core.display import draw_losses
from ..lokr_core.errors import LoKrError, LoKrValueError
from ..lokr_core.training import TrainingSession
from ..lokr_core.tuner import LoKrLayers, trainable_modules
from .adapters import read_adapter
from .apply import apply_adapter
from .inputs import CATEGORY
from .mode import LIVE, How
from .shown import LOG, node_id, pictured
from .train_data import Pictures
from .train_files import TrainedFile
from .train_options import DTYPES, RESUME, Options, inputs
from .train_plan import TrainPlan
from .train_run import Run
from .train_shown import Shown, decoded


class LoKrTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrTrain",
            display_name="LoKr Train",
            category=CATEGORY,
            description="Trains a LoKr on a model, and writes it to the loras folder. A stopped training is resumed.",
            search_aliases=["lokr", "train lora", "train lokr", "fine-tune", "dreambooth", "lycoris"],
            inputs=inputs(),
            outputs=[
                io.Model.Output("model", tooltip="With the trained adapter, live."),
                io.Image.Output("loss_curve", tooltip="The loss of every step."),
                io.String.Output("report", tooltip="How far it came, and where the file is."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            is_input_list=True,
        )

    @classmethod
    def execute(cls, latents, positive, negative=None, **given) -> io.NodeOutput:
        options = Options(**{name: value[0] for name, value in given.items()})
        negative = [entry for conditioning in negative or () for entry in conditioning]
        return _trained(cls, options, Pictures.of(options.model, latents, positive), negative[:1])


def _trained(node: type[io.ComfyNode], options: Options, pictures: Pictures, negative: list) -> io.NodeOutput:
    plan = options.plan(trainable_modules(options.model.model.diffusion_model), negative)
    file = TrainedFile.called(options.file_name)
    same, shown = options.same(len(pictures)), Shown(node_id(node), options.steps)
    resumed = 0

    def resume(session: TrainingSession) -> None:
        nonlocal resumed
        if options.existing == RESUME and file.state.exists():
            session.resume(file.state, same)
            resumed = session.steps
        shown.begin(session.losses)

    def on_step(session: TrainingSession) -> None:
        shown.step(session.losses)
        if session.steps % options.save_every == 0:
            file.save(run.adapter(), session, same)

    run = Run(_patcher(options), pictures, plan, _layers, on_step, resume)
    problem = _advanced(run, options, file, same, shown)
    if problem is not None:
        raise problem
    file.save(run.adapter(), run.session, same)
    adapter = read_adapter(file.name)
    model, _, report = apply_adapter(options.model, None, adapter, 1.0, 0.0, How(LIVE))
    text = f"{file.name}: {_course(run, resumed)}\n{report.headline}"
    LOG.info(text)
    image, _ = pictured(draw_losses(run.session.losses), text)
    return io.NodeOutput(model, image, text, ui=shown.final(file.name, text))


def _advanced(run: Run, options: Options, file: TrainedFile, same: dict, shown: Shown) -> LoKrError | None:
    """Train to the last step, with a sample after every ``sample_every``. Returns the error if memory ran out.

    Memory that ran out and an interruption leave what was trained in the file. Not raised here: an error keeps the
    tensors of all calls below it.
    """
    every = options.sample_every or options.steps
    try:
        while True:
            until = min(options.steps, (run.steps // every + 1) * every)
            painted = run.advance(until, paint=bool(options.sample_every))
            picture = None if painted is None else decoded(painted, run.patcher, options.vae)
            if picture is not None:
                shown.sample(picture)
            if run.steps >= options.steps:
                return None
    except management.InterruptProcessingException:
        _save(run, file, same)
        raise
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        message = str(error).partition("\n")[0]
    _save(run, file, same)
    management.soft_empty_cache()
    return LoKrError(
        f"Out of memory after step {run.steps} of {options.steps}",
        found=message,
        hint="turn gradient_checkpointing on, lower batch_size, choose fewer blocks, or use smaller pictures; "
        + (f"{file.name} holds the steps so far, and the next run goes on" if run.steps else "nothing was written"),
    )


def _layers(model: torch.nn.Module, plan: TrainPlan, device: torch.device) -> LoKrLayers:
    return LoKrLayers(model, plan.modules, plan.config, device)


def _save(run: Run, file: TrainedFile, same: dict) -> None:
    if run.steps:
        file.save(run.adapter(), run.session, same)
        LOG.info("%s: stopped after step %d; the next run goes on from there", file.name, run.steps)


def _is_out_of_memory(error: BaseException) -> bool:
    # torch's own class, without a new name before 2.5; its allocator for CPUs has none.
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _patcher(options: Options):
    """A clone of the model for training. Raises LoKrValueError if adapters are live on it."""
    model, dtype = options.model, DTYPES[options.precision]
    if model.injections:
        raise LoKrValueError(
            "The adapters on this model are live: they would get no gradients",
            expected="a model without adapters, or with merged ones",
            hint="choose merge as the mode of the loaders before this node",
        )
    # ComfyUI's own moving of weights while they are computed with does not keep them for gradients.
    patcher = model.get_non_dynamic_delegate() if model.is_dynamic() else model.clone()
    if patcher.model.get_dtype_inference() != dtype:
        patcher.set_model_compute_dtype(dtype)
    return patcher


def _course(run: Run, resumed: int) -> str:
    losses = run.session.losses
    some = max(1, len(losses) // 10)
    first, last = (sum(part) / some for part in (losses[:some], losses[-some:]))
    numbers = sum(parameter.numel() for parameter in run.layers.parameters().values())
    text = f"{run.steps} steps, loss {first:.4g} to {last:.4g}, {len(run.layers)} layers, {numbers:,} parameters"
    return text + (f", resumed after step {resumed}" if resumed else "")
