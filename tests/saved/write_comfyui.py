"""Wrote ``files/comfyui``: workflows as ComfyUI's page saves them, the prompts that it makes of them, what they give,
and what the server says of the nodes.

Run once, in the tree of release 0.1.0, with ComfyUI 0.28.0 (its page 1.45.21) and Chromium:
``PYTHONPATH=TREE COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/saved/write_comfyui.py``. The files are never written
again.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import tempfile
from pathlib import Path

import doors
from graphs import CHECKPOINT, outcome, structure
from making import eighths, generator
from playwright.sync_api import sync_playwright
from safetensors.torch import load_file, save_file
from write import write_json

from lokr_core import load_adapter, save_adapter

SHAPES = {  # of weights of the test's small SD1.5, by kohya's names
    "style": {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
        "lora_unet_up_blocks_1_resnets_0_time_emb_proj": (320, 1280),
        "lora_te_text_model_encoder_layers_3_mlp_fc2": (768, 3072),
    },
    "other": {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v": (320, 768),
        "lora_unet_mid_block_attentions_0_proj_in": (640, 640, 1, 1),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    },
}
EXAMPLES = ("LoKr - several adapters with block strengths",)
"""Those of which a copy is kept: as users have opened them."""


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def sampled(model: list, clip: list, picture: list | None = None) -> dict:
    """From a model to a picture that is saved."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "3": node("CLIPTextEncode", text="a lighthouse", clip=clip),
        "4": node("CLIPTextEncode", text="", clip=clip),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node(
            "KSampler",
            seed=1,
            steps=2,
            cfg=2.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
            model=model,
            positive=["3", 0],
            negative=["4", 0],
            latent_image=["5", 0],
        ),
        "7": node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "8": node("SaveImage", images=picture or ["7", 0], filename_prefix="saved"),
    }


EVERY = {  # each LoKr node at least once, no widget at its default
    **sampled(["30", 0], ["30", 1], ["31", 0]),
    "20": node(
        "LoKrLoader",
        model=["1", 0],
        lokr_name="style.safetensors",
        strength_model=0.75,
        strength_clip=0.5,
        clip=["1", 1],
        mode="merge",
        blocks=["50", 0],
    ),
    "21": node(
        "LoKrLoaderModelOnly", model=["20", 0], lokr_name="other.safetensors", strength_model=-1.25, mode="live"
    ),
    "22": node(
        "LoKrStack",
        model=["21", 0],
        clip=["20", 1],
        mode="merge",
        blocks=["50", 0],
        schedule=["51", 0],
        **{"on_1": True, "lokr_1": "style.safetensors", "strength_model_1": 1.25, "strength_clip_1": 0.25},
        **{"row_2": "add", "row_2.on_2": False, "row_2.lokr_2": "style.safetensors"},
        **{"row_2.strength_model_2": 1.5, "row_2.strength_clip_2": -1.0, "row_2.row_3": "add"},
        **{"row_2.row_3.on_3": True, "row_2.row_3.lokr_3": "other.safetensors", "row_2.row_3.row_4": "none"},
        **{"row_2.row_3.strength_model_3": 0.5, "row_2.row_3.strength_clip_3": 0.25},
    ),
    "23": node(
        "LoKrPromptLoader",
        model=["22", 0],
        clip=["22", 1],
        prompt="dusk <lokr:other:0.25:0.5>, <LoKr:Style:unet=0.125>",
        mode="live",
    ),
    "30": node(
        "LoKrStrengthGrid",
        model=["23", 0],
        clip=["23", 1],
        x_lokr="other.safetensors",
        x_strengths="0, 0.25:0.5:0.25",
        y_lokr="style.safetensors",
        y_strengths="-0.25; 1",
        mode="merge",
    ),
    "31": node("LoKrGridImage", images=["7", 0], grid=["30", 2]),
    "32": node("LoKrInspect", model=["1", 0], clip=["1", 1], lokr_name="style.safetensors"),
    "40": node(
        "LoKrSave",
        model=["23", 0],
        clip=["23", 1],
        filename_prefix="loras/every",
        overlap="nearest LoKr",
        format="kohya",
        dtype="fp32",
    ),
    "50": node("LoKrBlockStrengths", preset="UNet: without input blocks", strengths="MID:0.5, OUT0-1:0.25\n*to_q=-1"),
    "51": node(
        "LoKrSchedule",
        start=0.0,
        end=0.875,
        keyframes="0:0.5, 0.5:1",
        ease="ease in-out",
        percent_of="noise",
        cond=1.25,
        uncond=0.75,
    ),
}
PROPERTIES = {"22": {"lokr_plain_widgets": True}, "51": {"lokr_snap_steps": 8}, "50": {"lokr_architecture": "SDXL"}}
"""What the pack's own editors save in a node."""


def write_adapters(out: Path) -> None:
    for seed, (name, shapes) in enumerate(SHAPES.items(), 30):
        rng, tensors = generator(seed), {}
        for module, (rows, columns, *kernel) in shapes.items():
            tensors[f"{module}.lokr_w1"] = eighths(rng, 8, 8)
            tensors[f"{module}.lokr_w2_a"] = eighths(rng, rows // 8, 1) / 2
            tensors[f"{module}.lokr_w2_b"] = eighths(rng, 1, columns // 8, *kernel) / 2
        with tempfile.TemporaryDirectory() as temporary:
            save_file(tensors, f"{temporary}/{name}.safetensors")
            save_adapter(load_adapter(f"{temporary}/{name}.safetensors"), out / f"{name}.safetensors")


def saved_by_page(page, prompt: dict) -> dict:
    """A workflow with the nodes of ``prompt``, as the page saves it."""
    page.load(copy.deepcopy(prompt))
    for number, properties in PROPERTIES.items():
        for name, value in properties.items():
            change = "([node, name, value]) => app.graph.getNodeById(node).setProperty(name, value)"
            page.page.evaluate(change, [int(number), name, value])
    page.page.wait_for_timeout(500)
    return doors.workflow_of_page(page)


def write_pages(out: Path, server, tree: Path) -> dict[str, dict]:
    """The workflows, and the prompts that the page makes of them."""
    prompts = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        with doors.page(browser, server.url) as page:
            workflows = {"every": saved_by_page(page, EVERY)}
            for name in EXAMPLES:
                workflows[name] = json.loads((tree / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
            for name, workflow in workflows.items():
                prompts[name] = doors.prompt_of_page(page, workflow)[0]
                text = json.dumps(workflow, ensure_ascii=False, separators=(",", ":"))
                (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            assert not page.errors, page.errors
        browser.close()
    assert {entry["class_type"] for entry in EVERY.values()} == {e["class_type"] for e in prompts["every"].values()}
    return prompts


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "files"
    out = out / "comfyui"
    out.mkdir()
    write_adapters(out)
    write_json(out / "nodes.json", doors.node_schemas())
    comfyui, tree = doors.comfyui()
    with tempfile.TemporaryDirectory() as temporary, comfyui.serve(Path(temporary)) as server:
        info = {name: entry for name, entry in server.get("/object_info").items() if name.startswith("LoKr")}
        write_json(out / "object_info.json", {name: structure(entry) for name, entry in info.items()})
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        doors.make_checkpoint(comfyui, base, CHECKPOINT)
        for name in SHAPES:
            shutil.copy(out / f"{name}.safetensors", base / "models/loras")
        with comfyui.serve(base) as server:
            prompts = write_pages(out, server, tree)
            prompts["without"] = sampled(["1", 0], ["1", 1])
            results = {name: outcome(server, prompt) for name, prompt in prompts.items()}
        saved = base / "output" / results["every"]["LoKrSave 40"]["file"]
        save_file(load_file(saved), str(out / "saved.safetensors"))
    write_json(out / "prompts.json", prompts)
    write_json(out / "results.json", results)
