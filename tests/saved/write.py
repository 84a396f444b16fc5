"""Wrote ``files/``: adapters, PEFT folders, states of trainings, as release 0.1.0 writes them.

Run once, in the tree of release 0.1.0: ``PYTHONPATH=TREE python tests/saved/write.py``. What users have saved does not
change with the code, so the files are never written again; a folder that has them is refused. Texts and
what they mean were written by ``write_texts.py``, what ComfyUI saves by ``write_comfyui.py``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import doors
import torch
from making import (
    BOTH,
    COMMAND,
    DIFF,
    DORA_IN,
    DORA_OUT,
    EXAMPLES,
    FLAT,
    KERNEL,
    LORA,
    LOW,
    NORM,
    PEFT,
    POINT,
    SETTINGS,
    STOPPED,
    TEXT,
    TRAINED,
    TUCKER,
    WHOLE,
    Small,
    deltas,
    described,
    digest,
    eighths,
    flux,
    generator,
    inputs_of_small,
    loss_of,
    merged,
    names_in,
    network,
    pipeline,
    sums,
    trained_small,
)
from PIL import Image
from safetensors.torch import save_file

from lokr_core import (
    LoKrConfig,
    LoKrModel,
    get_lokr_model,
    load_adapter,
    load_lokr_model,
    save_adapter,
)

METADATA = {
    "ss_network_module": "lycoris.kohya",
    "ss_output_name": "style",
    "ss_base_model_version": "sd_v1",
    "ss_tag_frequency": json.dumps({"10_lighthouse": {"lighthouse": 20, "storm": 12}}),
}


def trainers_tensors() -> dict[str, torch.Tensor]:
    """A LoKr of every form, and what is no LoKr, in diffusers' names."""
    rng = generator(10)

    def random(*shape: int) -> torch.Tensor:
        return eighths(rng, *shape)

    updates = {
        LOW: {"lokr_w1": random(2, 2), "lokr_w2_a": random(6, 2), "lokr_w2_b": random(2, 4), "alpha": 1.0},
        WHOLE: {"lokr_w1": random(2, 2), "lokr_w2": random(6, 4), "alpha": 1.0},
        BOTH: {
            "lokr_w1_a": random(4, 1),
            "lokr_w1_b": random(1, 4),
            "lokr_w2_a": random(6, 3),
            "lokr_w2_b": random(3, 4),
            "alpha": 1.0,
        },
        TUCKER: {
            "lokr_w1": random(2, 2),
            "lokr_w2_a": random(2, 6),
            "lokr_w2_b": random(2, 4),
            "lokr_t2": random(2, 2, 3, 3),
            "alpha": 4.0,
        },
        FLAT: {"lokr_w1": random(4, 4), "lokr_w2_a": random(2, 1), "lokr_w2_b": random(1, 18), "alpha": -0.5},
        POINT: {"lokr_w1": random(2, 2), "lokr_w2_a": random(6, 2), "lokr_w2_b": random(2, 4, 1, 1), "alpha": 2.0},
        KERNEL: {"lokr_w1": random(4, 4), "lokr_w2": random(2, 2, 3, 3)},
        DORA_OUT: {
            "lokr_w1": random(4, 4),
            "lokr_w2_a": random(6, 1),
            "lokr_w2_b": random(1, 3),
            "alpha": 0.5,
            "dora_scale": random(24, 1).abs() + 1,
        },
        DORA_IN: {"lokr_w1": random(4, 4), "lokr_w2": random(3, 6), "dora_scale": random(1, 24).abs() + 1},
        TEXT: {"lokr_w1": random(4, 4), "lokr_w2_a": random(4, 1), "lokr_w2_b": random(1, 4), "alpha": 2.0},
        LORA: {"lora_up.weight": random(20, 2), "lora_down.weight": random(2, 12), "alpha": 1.0},
        NORM: {"w_norm": random(16), "b_norm": random(16)},
        DIFF: {"diff": random(6, 4, 3, 3), "diff_b": random(6)},
    }
    return {f"{m}.{name}": torch.as_tensor(t) for m, tensors in updates.items() for name, t in tensors.items()}


def write_adapters(out: Path) -> None:
    """A file in each format, and what was read from it and merged with it."""
    folder = out / "adapters"
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source.safetensors"
        tensors = trainers_tensors()
        save_file(tensors, str(source), METADATA)
        every = load_adapter(source)
        held = [LOW, WHOLE, TUCKER, POINT]
        save_file({key: t for key, t in tensors.items() if any(f"{m}." in key for m in held)}, str(source))
        pefts = load_adapter(source)
    save_adapter(every, folder / "own.safetensors")
    save_adapter(every, folder / "bf16.safetensors", torch.bfloat16, format="kohya")
    for format in ("kohya", "lycoris", "comfyui"):
        if format != "kohya":
            every.metadata.pop("ss_network_module", None)  # then names tell who wrote a file
        save_adapter(every, folder / f"{format}.safetensors", format=format, metadata={"format": format})
    for format in ("diffusers", "peft"):
        path = folder / ("peft" if format == "peft" else f"{format}.safetensors")
        save_adapter(pefts, path, format=format)
    save_adapter(pefts, folder / "fp8.safetensors", torch.float8_e4m3fn, format="kohya")
    save_adapter(trained_model(), folder / "trained.safetensors", format="kohya")
    one, two = folder / "diffusers.safetensors", folder / "peft" / "adapter_model.safetensors"
    assert doors.lokr("combine", f"{one}:0.5", f"{two}:0.25", "-o", folder / "combined.safetensors") == 0
    read, stored = {}, {}
    for path in sorted(folder.iterdir()):
        adapter = load_adapter(path)
        numbers = {"deltas": deltas(adapter)}
        if path.stem != "trained":  # which is for another model
            numbers["merged"] = merged(adapter)
        read[path.name] = described(adapter)
        for what, tensors in numbers.items():
            # Most are the same in all formats, and are stored once.
            names = {name: digest({"": tensor}) for name, tensor in tensors.items()}
            stored |= {names[name]: tensor.contiguous() for name, tensor in tensors.items()}
            read[path.name][what] = names
    write_json(out / "adapters.json", read)
    save_file(stored, str(out / "adapters.safetensors"))


def trained_model() -> LoKrModel:
    return trained_small(get_lokr_model(Small(), LoKrConfig(**PEFT["pefts"])), 11)


def write_checkpoint(out: Path) -> None:
    """A checkpoint that ``lokr apply`` has merged an adapter into, and what a second one makes of it."""
    folder, adapter = out / "checkpoint", out / "adapters" / "diffusers.safetensors"
    folder.mkdir()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "base.safetensors"
        places = [name.replace("unet.", "diffusion_model.") for name in (LOW, POINT)]
        weights = {name: p.detach() for name, p in pipeline().named_parameters() if name.startswith(tuple(places))}
        save_file(weights, str(base), {"modelspec.title": "base"})
        assert doors.lokr("apply", base, adapter, "-o", folder / "merged.safetensors", "-s", 0.5) == 0
    assert doors.lokr("apply", folder / "merged.safetensors", adapter, "-o", folder / "twice.safetensors") == 0


def write_peft(out: Path) -> None:
    """Folders of ``save_pretrained``, what their models give for an input, and what the configurations say."""
    x, outputs, configs = inputs_of_small(), {}, {}
    model = trained_model().eval()
    model.save_pretrained(out / "peft" / "pefts")
    outputs["pefts"] = model(x)
    own = get_lokr_model(Small(), LoKrConfig(**PEFT["own"]))
    own.add_adapter("second", LoKrConfig(**PEFT["second"]))
    trained_small(own, 12)
    own.set_adapter("second")
    trained_small(own, 13).eval()
    own.save_pretrained(out / "peft" / "own")
    for name in ("default", "second"):
        own.set_adapter(name)
        outputs[f"own:{name}"] = own(x)
    own.set_adapter(["default", "second"])
    outputs["own:both"] = own(x)
    outputs["kohya"] = load_lokr_model(Small(), out / "adapters" / "trained.safetensors").eval()(x)
    outputs["base"] = Small()(x)
    for folder in (out / "peft" / "pefts", out / "peft" / "own", out / "peft" / "own" / "second"):
        configs[folder.name] = LoKrConfig.from_pretrained(folder).to_dict()
    write_json(out / "peft.json", configs)
    save_file({key: tensor.detach().contiguous() for key, tensor in outputs.items()}, str(out / "peft.safetensors"))


def write_trainings(out: Path) -> None:
    """The state of a training that was stopped, and the losses and the adapter that it would have come to."""
    trained = doors.training()
    settings = trained.TrainSettings(**SETTINGS)

    def stops(model, batch) -> torch.Tensor:
        if batch.step == STOPPED + 2:
            raise KeyboardInterrupt
        return loss_of(model, batch)

    losses, tensors = {}, {}
    for kind in TRAINED:
        folder = out / "training" / kind
        try:
            trained.train(network(kind), stops, EXAMPLES, settings, folder, lambda first: None)
        except KeyboardInterrupt:
            (folder / "loss.png").unlink()
        with tempfile.TemporaryDirectory() as whole:
            model = network(kind)
            losses[kind] = trained.train(model, loss_of, EXAMPLES, settings, Path(whole), lambda first: None)
        tensors |= {f"{kind}:{key}": t.contiguous() for key, t in deltas(model.to_adapter()).items()}
    write_json(out / "training.json", losses)
    save_file(tensors, str(out / "training.safetensors"))


def write_command(out: Path) -> None:
    """What ``lokr train`` writes: the losses, and the names and shapes in its state and its adapter."""
    pictures = out / "training" / "pictures"
    pictures.mkdir()
    for number in range(2):
        numbers = torch.randint(256, (16, 16, 3), generator=generator(20 + number)).byte().numpy()
        Image.fromarray(numbers).save(pictures / f"{number}.png")
    (pictures / "0.txt").write_text("a lighthouse at dusk")
    written = {"base": sums(doors.small_flux())}
    assert written["base"] == sums(flux())
    with tempfile.TemporaryDirectory() as temporary:
        assert doors.lokr("train", pictures, "--out", temporary, *COMMAND, "--steps", 6) == 0
        written["losses"] = json.loads((Path(temporary) / "losses.json").read_text())
        for name in ("state", "lokr"):
            written[name] = names_in(Path(temporary) / f"{name}.safetensors")
    write_json(out / "command.json", written)


def write_json(path: Path, entries: dict) -> None:
    """One line for each entry."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "files"
    assert not (out / "adapters").exists(), f"{out} has been written"
    for write in (write_adapters, write_checkpoint, write_peft, write_trainings, write_command):
        write(out)
