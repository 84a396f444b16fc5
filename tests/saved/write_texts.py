"""Wrote ``files/*.json`` of texts that users save, in workflows, prompts and pictures, and what release 0.1.0 made of
them.

Run once, after ``write.py``, in the tree of release 0.1.0: ``PYTHONPATH=TREE python tests/saved/write_texts.py``. The
files are never written again.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import doors
import pytest
from write import write_json

MODELS = {
    "SDXL": [
        "diffusion_model.input_blocks.0.0",
        "diffusion_model.input_blocks.3.0.op",
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        "diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_v",
        "diffusion_model.middle_block.0.in_layers.2",
        "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q",
        "diffusion_model.output_blocks.0.1.transformer_blocks.0.attn2.to_k",
        "diffusion_model.output_blocks.1.1.transformer_blocks.0.ff.net.0.proj",
        "diffusion_model.output_blocks.8.0.out_layers.3",
        "diffusion_model.time_embed.0",
        "diffusion_model.label_emb.0.0",
        "diffusion_model.out.2",
    ],
    "diffusers' SD": [
        "unet.down_blocks.0.resnets.0.conv1",
        "unet.down_blocks.2.attentions.1.transformer_blocks.0.attn1.to_q",
        "unet.mid_block.attentions.0.proj_in",
        "unet.up_blocks.1.resnets.0.conv1",
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2",
        "unet.conv_in",
        "unet.time_embedding.linear_1",
    ],
    "Flux": [
        "model.diffusion_model.double_blocks.0.img_attn.qkv",
        "model.diffusion_model.double_blocks.3.txt_mlp.2",
        "model.diffusion_model.double_blocks.18.img_mod.lin",
        "model.diffusion_model.single_blocks.0.linear1",
        "model.diffusion_model.single_blocks.37.linear2",
        "model.diffusion_model.img_in",
        "model.diffusion_model.final_layer.adaLN_modulation.1",
    ],
    "Wan": [
        *(f"diffusion_model.blocks.{n}.{layer}" for n in (0, 1, 10, 39) for layer in ("self_attn.q", "ffn.0")),
        "diffusion_model.text_embedding.0",
        "diffusion_model.head.head",
    ],
    "Z-Image": [
        "diffusion_model.noise_refiner.0.attention.qkv",
        "diffusion_model.context_refiner.1.feed_forward.w1",
        "diffusion_model.layers.0.attention.qkv",
        "diffusion_model.layers.29.feed_forward.w2",
        "diffusion_model.cap_embedder.1",
    ],
}
BLOCKS = [
    ("SDXL", ""),
    ("SDXL", "IN:0.2, MID:1, OUT4-8:0.5"),
    ("SDXL", "IN:0.2\nMID=0.3; OUT=0.5,\n"),
    ("SDXL", "ALL:0, IN4:1, out1=0.75"),
    ("SDXL", "in:2; *attn1=0"),
    ("SDXL", "*attn1=0, in:2"),
    ("SDXL", "OTHER:-0.5, middle_block:0.25"),
    ("SDXL", "ALL:0, output_blocks.1.1=1"),
    ("SDXL", "diffusion_model.input_blocks.4.1=0, input_blocks.8:1e-1"),
    ("SDXL", "input_blocks.0-3:0.1, *.transformer_blocks.*.to_q = .5"),
    ("diffusers' SD", "IN:0.2, MID:0.3, OUT:0.4, OTHER:0.5"),
    ("diffusers' SD", "IN2:0, mid_block:0.6, up_blocks.3:-1"),
    ("diffusers' SD", "unet.up_blocks.1.*conv1=0.1"),
    ("Flux", "DOUBLE:0.5, double_blocks.*.img_attn=0.2"),
    ("Flux", "SINGLE0-36:0, DOUBLE3:0.25, OTHER:0"),
    ("Flux", "double_blocks.0-9:0.4, single:0.9, final_layer=2"),
    ("Wan", "BLOCKS:0.5, blocks.1:0, BLOCKS10-39=0.7"),
    ("Wan", "blocks0:0.1, *.ffn=0.3, ALL:1, *self_attn.q=0.9"),
    ("Z-Image", "LAYERS:0.5, NOISE_REFINER:0.1, context_refiner:0.2, OTHER:0.3"),
    ("Z-Image", "LAYERS20-29:0, layers.*.attention=0.4"),
]
SCHEDULES = [  # the widgets of LoKr Schedule: keyframes, ease, start, end, percent_of, cond, uncond
    ("", "linear", 0.0, 1.0, "steps", 1.0, 1.0),
    ("0:0, 0.3:1, 1:0.2", "linear", 0, 1, "steps", 1, 1),
    ("0:0, 0.3:1, 1:0.2", "ease in", 0.1, 0.9, "noise", 1.0, 0.0),
    ("0:0, 0.3:1, 1:0.2", "ease out", 0.0, 0.5, "steps", 0.5, 2.0),
    ("0:0\n0.3:1\n1:0.2", "ease in-out", 0.25, 1.0, "noise", -1.0, 1.0),
    ("0.1:0.5, 0.5:2, 0.5:-1, 0.8:0,", "hold", 0.0, 1.0, "steps", 1.0, 1.0),
    ("0.1:0.5, 0.5:2, 0.5:-1, 0.8:0", "linear", 0.0, 1.0, "steps", 1.0, 1.0),
    ("0.5 : 1.5", "linear", 0.35, 0.65, "steps", 10.0, -10.0),
]
GRIDS = ["0, 0.5, 1", "-1, 0:1:0.25", "1:0:-0.1", "0;0.7\n1.2", "0.1:0.3:0.1, 2", ".5"]
PROMPTS = [
    "a lighthouse <lokr:style:0.8:0.6>, dusk",
    "<lokr:style>",
    "x <LoKr:people/My face v2.safetensors:0.5> y <lokr:style:-0.25>  z",
    "<lokr: style : 0.8 : te=0.2 >, <lokr:style:unet=0.5>",
    "<lokr:style:clip=0.3:model=0.4> <lora:style:1>",
    "no tag at all  ",
    "(a:1.2) <lokr:style (v2) [x] été:1e-1:.5>\n<lokr:a\\b:1>",
]
TAGS = [
    ("style", "live"),
    ("style", "merge"),
    ("style:0.8", "live"),
    ("style:0.8:0.6", "live"),
    ("style:te=0.5", "merge"),
    ("style:0.8:unet=0", "live"),
    ("style:0.8:0.6:te=-1:unet=2", "live"),
    ("style:0.8:blocks=IN=0.2,mid=1:start=0.1:end=0.9", "merge"),
    ("style:start=0.5", "merge"),
    ("style:MODE=Merge:0.7", "live"),
    ("style:mode=live:blocks=output_blocks.1.1=0.5,*attn1=0", "merge"),
    ("a=b (v2) [x] été:0.5", "live"),
]
LOADED = {
    "LoKr/style.safetensors": "kohya",
    "LoKr/people/my style, v2.safetensors": "bf16",
    "Lora/other.safetensors": "fp8",
}
RENAMED = {"LoKr/neu.safetensors": "kohya", "LoKr/style.safetensors": "lycoris", "Lora/mine.safetensors": "bf16"}
TWICE = {"LoKr/style.safetensors": "kohya", "Lora/style.safetensors": "lycoris", "LoKr/other.safetensors": "fp8"}
HERE = {"as they were": LOADED, "renamed": RENAMED, "two of one name": TWICE, "gone": {}}
NAMES = ["style", "STYLE", "style.safetensors", "style(9d9d8517bbf6)", "My Style, v2", "my style v2", "other", "mine"]
WRITTEN = [  # settings, names that the prompt says, those that the prompt of hires fix says
    ({}, ["style"], []),
    ({"lokr_mode": "merge"}, ["style", "my style, v2"], []),
    ({"lora_preferred_name": "Filename"}, ["My Style, v2", "other"], ["style"]),
    ({"lokr_infotext": False}, ["style"], []),
]
SETTINGS = {
    "lokr_mode": "merge",
    "lokr_folders": "/models/more lokr\n  /models/lora2  \n\n",
    "lokr_infotext": False,
    "lokr_panel_range": 4.0,
    "lokr_card_width": 200,
    "lokr_card_height": 0,
    "lora_preferred_name": "Filename",
}


def write_blocks(out: Path) -> None:
    cases = [(model, text, doors.block_strengths(text, MODELS[model])) for model, text in BLOCKS]
    presets = {}
    for name, text in doors.block_presets().items():
        presets[name] = {}
        for model, modules in MODELS.items():
            try:
                presets[name][model] = doors.block_strengths(text, modules)
            except Exception:  # of another architecture
                presets[name][model] = None
    write_json(out / "blocks.json", {"models": MODELS, "texts": cases, "presets": presets})


def write_schedules(out: Path) -> None:
    written = {"schedules": [(widgets, *doors.schedule_of(*widgets)) for widgets in SCHEDULES]}
    written["grids"] = [(text, doors.grid_strengths(text)) for text in GRIDS]
    write_json(out / "schedules.json", written)


def write_tags(out: Path) -> None:
    written = {"prompts": [(prompt, *doors.tags_of(prompt)) for prompt in PROMPTS]}
    written["tags"] = [(tag, mode, doors.request_of(tag, mode)) for tag, mode in TAGS]
    write_json(out / "tags.json", written)


def web_ui(out: Path, monkeypatch, files: dict[str, str], settings: dict) -> SimpleNamespace:
    """The extension on a host with these files: path -> which of ``files/adapters``."""
    models = Path(tempfile.mkdtemp())
    for path, adapter in files.items():
        (models / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "adapters" / f"{adapter}.safetensors", models / path)
    return doors.web_ui(monkeypatch, models, settings)


def infotext_of(prompt: str, hires: str, parameters: dict[str, str]) -> str:
    """As A1111 writes them below a picture."""
    fields = {"Steps": "20", "Sampler": "Euler", "Hires prompt": hires, **parameters, "Version": "v1.10.1"}
    said = [
        f"{key}: {json.dumps(v, ensure_ascii=False) if set(',:') & set(v) else v}" for key, v in fields.items() if v
    ]
    return f"{prompt}\nNegative prompt: blurry\n{', '.join(said)}"


def found_as(web: SimpleNamespace, name: str) -> str | None:
    """The file that a tag's name means, below the folder of models; None where it means none."""
    try:
        return web.library.find(name).path.relative_to(web.models).as_posix()
    except web.library.UnknownName:
        return None


def write_infotexts(out: Path) -> None:
    written, read, found = [], [], []
    with pytest.MonkeyPatch.context() as monkeypatch:
        for settings, names, hires in WRITTEN:
            web = web_ui(out, monkeypatch, LOADED, settings)
            p = SimpleNamespace(extra_generation_params={}, is_hr_pass=False)
            mode = settings.get("lokr_mode", "live")
            web.infotext.write(p, [doors.in_force(web, name, mode) for name in names])
            if hires:
                p.is_hr_pass = True
                web.infotext.write(p, [doors.in_force(web, name, mode) for name in hires])
            prompts = [" ".join(f"<lokr:{name}:0.8>" for name in said) for said in (names, hires)]
            text = infotext_of(f"a lighthouse {prompts[0]}", prompts[1], p.extra_generation_params)
            written.append([settings, names, hires, p.extra_generation_params, text])
            for what, files in HERE.items():
                web = web_ui(out, monkeypatch, files, settings)
                pasted = {
                    "Prompt": f"a lighthouse {prompts[0]}",
                    "Hires prompt": prompts[1],
                    **p.extra_generation_params,
                }
                web.infotext.pasted("", pasted)
                read.append([what, text, settings, pasted["Prompt"], pasted["Hires prompt"]])
        for what, files in HERE.items():
            web = web_ui(out, monkeypatch, files, {})
            found += [[what, name, found_as(web, name)] for name in NAMES]
        web = web_ui(out, monkeypatch, LOADED, SETTINGS)
        web.library.refresh()
        outline = next(iter(web.host_cache("lokr-outlines").values()))
        options = {
            name: [option.default, option.infotext, (option.component_args or {}).get("choices")]
            for name, option in web.options.items()
        }
        meant = [list(map(str, web.settings.folders()))[1:3], web.settings.default_mode(), web.settings.writes_hashes()]
        meant += [list(web.settings.card_size()), web.settings.prefers_filename()]
    write_json(
        out / "infotexts.json",
        {
            "files": HERE,
            "written": written,
            "read": read,
            "found": found,
            "options": options,
            "settings": SETTINGS,
            "meant": meant,
            "outline": outline,
        },
    )


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "files"
    assert not (out / "blocks.json").exists(), f"{out} has been written"
    for write in (write_blocks, write_schedules, write_tags, write_infotexts):
        write(out)
