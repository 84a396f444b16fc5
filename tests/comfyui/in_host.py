"""Runs inside ComfyUI's own interpreter: ``in_host.py BASE JOBS.json``. Jobs come from the tests, results go to files.

BASE is ComfyUI's base directory; its ``custom_nodes`` holds this project. A job is {"do": one of JOBS, ...arguments}.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path

BASE, WORK = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(BASE), "--database-url", "sqlite:///:memory:"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cli_args  # noqa: E402, F401  (before torch, as ComfyUI's main does)
import torch  # noqa: E402

torch.set_num_threads(2)

import comfy.lora  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import nodes  # noqa: E402

folder_paths.set_output_directory(str(BASE / "output"))


def load(model: str):
    """(model, clip) of a file, its diffusion model in the dtype that the file's name ends with.

    (Left alone, ComfyUI holds everything in fp32 on a CPU.)
    """
    options = {"dtype": getattr(torch, Path(model).stem.split("-")[1])}
    if "checkpoints" in Path(model).parts:
        return comfy.sd.load_checkpoint_guess_config(model, output_vae=False, model_options=options)[:2]
    return comfy.sd.load_diffusion_model(model, model_options=options), None


def names(model: str, out: str) -> None:
    """ComfyUI's own names of the model's weights: {name: key or [key, [axis, start, length] or None, swapped]}."""
    model, clip = load(model)
    found = comfy.lora.model_lora_keys_unet(model.model, {})
    if clip is not None:
        found = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, found)
    found = {name: key if isinstance(key, str) else [key[0], key[1], len(key) > 2] for name, key in found.items()}
    Path(out).write_text(json.dumps(found))


def digest(module: torch.nn.Module) -> str:
    """A hash over every byte of every weight."""
    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        state.update(name.encode() + tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def sample(model, steps: int = 2) -> torch.Tensor:
    """Core's KSampler with a fixed conditioning."""
    torch.manual_seed(1)
    cond = [[torch.randn(1, 8, 768), {"pooled_output": torch.randn(1, 768)}]]
    channels = model.model.latent_format.latent_channels
    latent = {"samples": torch.zeros(1, channels, 8, 8)}
    return nodes.common_ksampler(model, 5, steps, 1.0, "euler", "normal", cond, cond, latent)[0]["samples"]


def output(result) -> tuple:
    return result.args if hasattr(result, "args") else result


def through_loader(model: str, lokr: str, strength: float, out: str, reference: str) -> None:
    """What LoKrLoader makes of a file: patched weights, the sampler's output, and the base afterwards.

    ``reference``: weights that the producer says are right; sampled as well, put into the base model by hand.
    """
    patcher, clip = load(model)
    before = digest(patcher.model), clip and digest(clip.cond_stage_model)
    result = {"base": sample(patcher)}
    loader = nodes.NODE_CLASS_MAPPINGS["LoKrLoader"]
    patched, patched_clip, report, _ = output(
        loader.EXECUTE_NORMALIZED(patcher, lokr, strength, strength, clip, mode="merge")
    )
    result["sampled"] = sample(patched)
    # `sample` leaves the model patched, as ComfyUI does until another model needs the place.
    weights = {name: t.clone() for name, t in patched.model.state_dict().items() if name in patched.patches}
    if patched_clip is not None:
        comfy.model_management.load_models_gpu([patched_clip.patcher])
        state = patched_clip.cond_stage_model.state_dict()
        weights |= {name: state[name].clone() for name in patched_clip.patcher.patches}
    again = sample(patcher)
    comfy.model_management.unload_all_models()
    after = digest(patcher.model), clip and digest(clip.cond_stage_model)
    assert before == after, "the base model's bytes differ after the adapter was taken out"
    assert torch.equal(again, result["base"]), "the base model's output differs after the adapter was taken out"
    for name, tensor in load_file(reference).items():
        if name in patcher.model.state_dict():
            own = comfy.utils.get_attr(patcher.model, name)
            comfy.utils.set_attr_param(patcher.model, name, tensor.to(own.dtype))
    result["reference"] = sample(patcher)
    comfy.model_management.unload_all_models()
    save_file({**{f"weight.{n}": t.contiguous() for n, t in weights.items()}, **result}, out)
    Path(out).with_suffix(".txt").write_text(report)


def core_loader(model: str, lora: str, out: str) -> None:
    """The weights that ComfyUI's own "Load LoRA (Model)" changes, with what it makes of them."""
    patcher, _ = load(model)
    (patched,) = nodes.LoraLoaderModelOnly().load_lora_model_only(patcher, lora, 1.0)
    comfy.model_management.load_models_gpu([patched])
    weights = {name: t.clone() for name, t in patched.model.state_dict().items() if name in patched.patches}
    comfy.model_management.unload_all_models()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out)


def cells(architectures: list[str], out: str) -> None:
    """Tiny models of ComfyUI's own classes: {architecture: {naming: [modules found, modules of the file]}}."""
    import importlib

    project = Path(__file__).resolve().parents[2]
    # By its folder: ``tests`` is a package of ComfyUI's own here.
    sys.path += [str(project), str(project / "tests" / "names"), str(project / "tests" / "matching")]
    from cells import NAMINGS, lokr_keys, recorded
    from tiny_models import build_comfyui

    pack = nodes.NODE_CLASS_MAPPINGS["LoKrLoader"].__module__.removesuffix(".nodes.loader")
    bridge = importlib.import_module(f"{pack}.nodes.bridge")
    core = importlib.import_module(f"{pack}.lokr_core")
    formats = importlib.import_module(f"{pack}.lokr_core.formats")
    table = {}
    for architecture in architectures:
        model = torch.nn.Module()
        model.diffusion_model = build_comfyui(architecture)
        modules, _ = recorded(architecture)
        table[architecture] = {}
        for naming, spell in NAMINGS.items():
            adapter = formats.parse_adapter(lokr_keys({spell(name): shape for name, shape in modules.items()}))
            matches, report = core.resolve(adapter, bridge.target_of(model, {}))
            weights = dict(model.named_parameters())
            assert all(weights[m.weight].shape[1:] == u.shape[1:] for m in matches for _, u in m.pieces)
            table[architecture][naming] = [len(report.applied), len(modules)]
    Path(out).write_text(json.dumps(table))


def patch(out: str) -> None:
    """What ComfyUI does with a patch: moves its tensors and makes it anew, and hands it a slice or a function."""
    import comfy.utils

    pack = sys.modules[nodes.NODE_CLASS_MAPPINGS["LoKrLoader"].__module__.removesuffix(".nodes.loader")]
    core, LoKrPatch = pack.lokr_core, pack.nodes.apply.LoKrPatch
    torch.manual_seed(0)
    result = {}
    for dora in (None, torch.rand(12, 1) + 0.5, torch.rand(1, 8) + 0.5):
        w2 = core.Factor(a=torch.randn(3, 2), b=torch.randn(2, 4))
        lokr = core.LoKrWeights(core.Factor(torch.randn(4, 2)), w2, 0.7, dora)
        weight = torch.randn(20, 8)
        patch = LoKrPatch.of("module", lokr)
        size = [0]
        comfy.lora.prefetch_prepared_value(patch, size, None, None, False)
        buffer = torch.empty(size[0], dtype=torch.uint8)
        moved = comfy.lora.prefetch_prepared_value(patch, [0], buffer, None, True)
        assert moved is not patch
        for name, (offset, function) in {
            "whole": (None, None),
            "slice": ((0, 5, 12), None),
            "swapped": (None, comfy.utils.swap_scale_shift),
        }.items():
            base = weight if name == "slice" else weight[:12]
            key = f"{name}.{0 if dora is None else dora.shape[0]}"
            for kind, one in (("patched", patch), ("moved", moved)):
                patches = [(0.6, one, 1.0, offset, function)]
                result[f"{key}.{kind}"] = comfy.lora.calculate_weight(patches, base.clone(), "key")
            rows = base[5:17] if name == "slice" else base
            rows = comfy.utils.swap_scale_shift(rows) if name == "swapped" else rows
            changed = lokr.add_to_(rows.clone(), 0.6)
            changed = comfy.utils.swap_scale_shift(changed) if name == "swapped" else changed
            result[f"{key}.expected"] = torch.cat((base[:5], changed, base[17:])) if name == "slice" else changed
    save_file({name: tensor.contiguous() for name, tensor in result.items()}, out)


def mixed(model: str, lokr: str, parts: list[str], out: str) -> None:
    """A file of several kinds: who patches which weight, and its output against its parts, each by its own loader."""
    base, _ = load(model)
    loader = nodes.NODE_CLASS_MAPPINGS["LoKrLoaderModelOnly"].EXECUTE_NORMALIZED
    wanted, *_ = output(loader(model=base, lokr_name=parts[0], strength_model=0.7, mode="merge"))
    wanted = nodes.LoraLoader().load_lora(wanted, None, parts[1], 0.7, 0.0)[0]
    wanted, plain = sample(wanted), sample(base)
    found = {"effect": ((wanted - plain).norm() / plain.norm()).item()}
    for mode in ("merge", "live"):
        patched, report, _ = output(loader(model=base, lokr_name=lokr, strength_model=0.7, mode=mode))
        by = {key: [(type(p[1]).__name__, p[3]) for p in patches] for key, patches in patched.patches.items()}
        distance = ((sample(patched) - wanted).norm() / wanted.norm()).item()
        found[mode] = {"report": report, "patches": by, "distance": distance}
    Path(out).write_text(json.dumps(found))


def embeddings(lokr: str, prompts: dict[str, str], out: str) -> None:
    """What a CLIP makes of prompts, with and without a file that has embeddings packed in, and the file's report."""
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models_base import ClipTarget

    torch.manual_seed(0)
    folder = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel), embedding_directory=folder)
    for parameter in clip.cond_stage_model.parameters():
        parameter.normal_(std=0.02)
    pack = sys.modules[nodes.NODE_CLASS_MAPPINGS["LoKrLoader"].__module__.removesuffix(".nodes.loader")]
    adapter = pack.lokr_core.load_adapter(folder_paths.get_full_path_or_raise("loras", lokr))
    result, found = {}, {}
    for strength in (0.0, 1.0):
        _, with_file, report = pack.nodes.apply.apply_adapter(None, clip, adapter, 1.0, strength)
        found[strength] = report.as_dict()
        for name, prompt in prompts.items():
            result[f"{name}.{strength}"] = with_file.encode_from_tokens(with_file.tokenize(prompt))
    result |= {f"{name}.after": clip.encode_from_tokens(clip.tokenize(prompt)) for name, prompt in prompts.items()}
    save_file({name: tensor.contiguous() for name, tensor in result.items()}, out)
    Path(out).with_suffix(".json").write_text(json.dumps(found))


def schemas(out: str) -> None:
    """What ComfyUI tells its page of each of this project's nodes: {node id: its entry in /object_info}."""

    def pack_of(node: type) -> str | None:
        return getattr(node, "RELATIVE_PYTHON_MODULE", None)  # core's own nodes have none

    pack = pack_of(nodes.NODE_CLASS_MAPPINGS["LoKrLoader"])
    own = {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if pack_of(node) == pack}
    Path(out).write_text(json.dumps({name: node.GET_NODE_INFO_V1() for name, node in own.items()}))


JOBS = {f.__name__: f for f in (names, through_loader, core_loader, cells, mixed, embeddings, patch, schemas)}


def main() -> None:
    import live_jobs
    import live_runs
    import model_jobs
    import walk_jobs

    jobs = JOBS | live_jobs.JOBS | live_runs.JOBS | model_jobs.JOBS | walk_jobs.JOBS
    for pack in sorted((BASE / "custom_nodes").iterdir()):
        assert asyncio.run(nodes.load_custom_node(str(pack))), f"ComfyUI could not load {pack.name}"
    with torch.inference_mode():
        for job in json.loads(Path(WORK).read_text()):
            print("job", job, flush=True)
            jobs[job.pop("do")](**job)


if __name__ == "__main__":
    main()
