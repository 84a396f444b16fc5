"""Live application in a real ComfyUI process: the same outputs as merged weights, no weight touched, chains, clones,
interruptions, offloading, few bits, schedules."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.comfyui.test_weights import (
    BOTH,
    DORA_IN,
    DORA_OUT,
    FLUX_LAYERS,
    FLUX_SLICES,
    LOW_RANK,
    SD15_LAYERS,
    WHOLE,
    Weights,
    train,
)

MODELS = ("sd15-float32", "flux-float32", "flux-bfloat16", "flux-float16", "flux-float8_e4m3fn")
# file -> (model it was trained on, its layers, LyCORIS arguments, strength)
FILES = {
    "sd15-whole": ("sd15-float32", SD15_LAYERS, WHOLE, 1.0),
    "sd15-low-rank": ("sd15-float32", SD15_LAYERS, LOW_RANK, 0.7),
    "sd15-tucker-dora-in": ("sd15-float32", SD15_LAYERS, {**BOTH, **DORA_IN, "use_tucker": True}, 1.0),
    "sd15-both-dora-out": ("sd15-float32", SD15_LAYERS, {**BOTH, **DORA_OUT}, -0.5),
    "flux-whole": ("flux-float32", FLUX_LAYERS, WHOLE, 1.0),
    "flux-low-rank": ("flux-float32", FLUX_LAYERS, LOW_RANK, 0.8),
    "flux-low-rank-dora-out": ("flux-float32", FLUX_LAYERS, {**LOW_RANK, **DORA_OUT}, 0.6),
    "flux-both-dora-in": ("flux-float32", FLUX_LAYERS, {**BOTH, **DORA_IN}, 1.0),
    "flux-slices": ("flux-float32", FLUX_SLICES, LOW_RANK, 0.8),
    "flux-slices-dora-out": ("flux-float32", FLUX_SLICES, {**WHOLE, **DORA_OUT}, 1.0),
    "flux-slices-dora-in": ("flux-float32", FLUX_SLICES, {**BOTH, **DORA_IN}, 1.0),
}
SMALL = ("flux-faint-whole", "flux-faint-slices")  # updates of the size that a merge into few bits loses


def strengths(model: str, *names: str) -> dict[str, float]:
    """{file: strength} of all files, or those, that are for ``model``."""
    return {f"{n}.safetensors": FILES[n][3] for n in FILES if n.startswith(model) and (not names or n in names)}


STATES = int(os.environ.get("LOKR_STATES", "200"))
"""Random states of a chain; above 200 each is compared with a fresh load (1,000 take several minutes)."""

SCHEDULES = ("normal", "karras", "simple", "beta")
CURVE = "0:0, 0.3:1, 0.6:0.5, 1:-0.2"


def cases() -> list[dict]:
    found = [{"scheduler": s, "keyframes": CURVE, "strength": 0.8} for s in SCHEDULES]
    found += [{"scheduler": s, "start": 0.25, "end": 0.5} for s in SCHEDULES]
    found += [{"scheduler": s, "start": 0.2, "end": 0.7, "percent_of": "noise"} for s in SCHEDULES]
    found += [{"scheduler": "simple", "keyframes": CURVE, "percent_of": "noise"}]
    found += [{"scheduler": "normal", "cfg": 3.0, "cond": 0.5, "uncond": 0.0, "start": 0.1}]
    return found


@pytest.fixture(scope="module")
def base(comfyui, tmp_path_factory):
    """Models, and files that LyCORIS trained on them."""
    base = tmp_path_factory.mktemp("live")
    paths = {m: base / f"models/{_folder(m)}/{m}.safetensors" for m in MODELS if "float8" not in m}
    jobs = [{"do": f"make_{m.split('-')[0]}", "path": str(p), "dtype": m.split("-")[1]} for m, p in paths.items()]
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    jobs += [{"do": "names", "model": str(paths[m]), "out": str(base / f"{m}.json")} for m in MODELS[:2]]
    comfyui.run(base, *jobs)
    (base / "models/diffusion_models/flux-float8_e4m3fn.safetensors").symlink_to(paths["flux-float32"])
    weights = {m: Weights(paths[m], json.loads((base / f"{m}.json").read_text())) for m in MODELS[:2]}
    loras = base / "models/loras"
    for seed, (file, (model, layers, arguments, _)) in enumerate(FILES.items()):
        torch.manual_seed(seed)
        train(weights[model], layers, arguments, loras / f"{file}.safetensors")
    for name in SMALL:
        tensors = load_file(str(loras / f"{name.replace('-faint', '')}.safetensors"))
        faint = {key: t * 0.03 if "lokr_w1" in key and not key.endswith("_b") else t for key, t in tensors.items()}
        save_file(faint, str(loras / f"{name}.safetensors"))
    torch.manual_seed(9)
    for model, layers in (("sd15", SD15_LAYERS[:3]), ("flux", FLUX_LAYERS[:4])):
        tensors = {}
        for name in layers:
            out, columns = weights[f"{model}-float32"].tensors[weights[f"{model}-float32"].rows(name)[0]].shape
            tensors[f"{name}.lora_up.weight"] = torch.randn(out, 4) * 0.1
            tensors[f"{name}.lora_down.weight"] = torch.randn(4, columns) * 0.1
        save_file(tensors, str(loras / f"{model}-lora.safetensors"))
    return base


def _folder(model: str) -> str:
    return "checkpoints" if model.startswith("sd15") else "diffusion_models"


@pytest.fixture(scope="module")
def seen(comfyui, base):
    """What every job saw, by name."""
    sd15, flux = (str(base / f"models/{_folder(m)}/{m}.safetensors") for m in MODELS[:2])
    few = str(base / "models/diffusion_models/flux-float8_e4m3fn.safetensors")
    quantised = str(base / "models/diffusion_models/flux-float32-quantised.safetensors")
    comfyui.run(base, {"do": "make_quantised", "model": flux, "path": quantised})
    three = [f"flux-{name}.safetensors" for name in ("whole", "low-rank", "slices")]
    four = [*three, "flux-low-rank-dora-out.safetensors"]
    faint = {f"{name}.safetensors": 1.0 for name in SMALL}
    halves = {m: str(base / f"models/diffusion_models/{m}.safetensors") for m in ("flux-float16", "flux-bfloat16")}
    jobs = {
        "sd15": {"do": "live_and_merge", "model": sd15, "files": strengths("sd15")},
        "flux": {"do": "live_and_merge", "model": flux, "files": strengths("flux")},
        "float16": {"do": "rounding", "model": halves["flux-float16"], "reference": flux, "files": strengths("flux")},
        "bfloat16": {"do": "rounding", "model": halves["flux-bfloat16"], "reference": flux, "files": strengths("flux")},
        "float8": {"do": "rounding", "model": few, "reference": flux, "files": faint},
        "layout": {"do": "rounding", "model": quantised, "reference": flux, "files": faint},
        "chains": {"do": "chains", "model": flux, "lokr": three, "lora": "flux-lora.safetensors"},
        "states": {
            "do": "random_states",
            "model": flux,
            "lokr": four,
            "lora": "flux-lora.safetensors",
            "turns": STATES,
            "fresh_each": 8 if STATES <= 200 else 1,
        },
        "forgotten": {"do": "forgotten", "model": flux, "file": three[1]},
        "patching": {"do": "no_patching", "model": sd15, "file": "sd15-low-rank.safetensors"},
        "partly": {
            "do": "partly_loaded",
            "model": flux,
            "files": strengths("flux"),
            "lora": "flux-lora.safetensors",
        },
        "steps-sd15": {"do": "scheduled", "model": sd15, "file": "sd15-low-rank.safetensors", "cases": cases()},
        "steps-flux": {"do": "scheduled", "model": flux, "file": three[1], "cases": cases()},
        "custom": {"do": "custom_sampling", "model": flux, "file": three[1]},
        "compiled": {"do": "compiled", "model": flux, "file": three[1]},
    }
    comfyui.run(base, *({**job, "out": str(base / f"{name}.out")} for name, job in jobs.items()))
    return {name: json.loads((base / f"{name}.out").read_text()) for name in jobs}


@pytest.mark.parametrize("file", FILES)
def test_live_does_what_the_merged_weights_do_and_touches_no_byte(seen, file):
    found = seen[file.split("-")[0]][f"{file}.safetensors"]
    assert found["live to base"] > 1e-3
    assert found["live to merge"] < min(1e-4, found["live to base"] * 1e-2)
    assert found["patches of live"] == 0
    assert found["bytes"]
    layers = FILES[file][1]
    assert found["report"].startswith(f"{len(layers)} of {len(layers)} modules applied")
    assert "live: as set on the node" in found["report"]
    if file.startswith("sd15"):
        assert found["clip to base"] > 1e-3
        assert found["clip"] < found["clip to base"] * 2e-3  # ComfyUI holds the text encoder's weights in fp16


@pytest.mark.parametrize("model", ["sd15", "flux"])
def test_the_base_is_had_back_exactly(seen, model):
    assert seen[model]["base"] == {"same output": True, "same bytes": True}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_on_weights_in_half_precision_live_does_not_round_them(seen, dtype):
    for file, found in seen[dtype].items():
        assert found["live"] < 1e-5 < found["merge"], file


@pytest.mark.parametrize("kind", ["float8", "layout"])
def test_in_fp8_live_keeps_small_updates_and_auto_takes_it(seen, kind):
    """Plain fp8 weights, and ComfyUI's QuantizedTensor."""
    for file, found in seen[kind].items():
        assert (found["quantised"] > 5) == (kind == "layout")
        print(file, found["live"], found["merge"], found["effect"])
        assert found["live"] < found["merge"] / 2, file
        assert found["live"] < found["effect"] * 0.05, file
        assert "live: the base is quantised" in found["auto"]


def test_live_merge_and_cores_loaders_add_up_in_any_order(seen):
    found = seen["chains"]
    assert found["effect"] > 1e-2
    assert max(found["orders"].values()) < 1e-4, found["orders"]
    assert found["after"]


def test_random_chains_leave_the_base_as_it_was_and_each_is_what_a_fresh_load_gives(seen):
    found = seen["states"]
    assert found["worst"] < 1e-5
    assert found["same output"]
    assert found["same bytes"]
    # What is in use (four at most) and the idle ones that are kept: nothing grows.
    assert found["seats"] <= 4 + 4
    assert found["hooks"] <= 8 * 6
    assert found["grown"] < 64 << 20


def test_forgotten_patchers_clones_and_interruptions(seen):
    found = seen["forgotten"]
    assert found["forgotten"]
    assert found["clones"] == [True] * 6
    assert found["adds up"] < 1e-5
    assert found["a clone on top"]
    assert found["interrupted"] == 2
    assert found["then strong"]
    assert found["then base"]


def test_a_changed_strength_patches_nothing(seen):
    assert seen["patching"]["live"] == 0
    assert seen["patching"]["merge"] > 0


@pytest.mark.parametrize("how", ["novram", "lowvram"])
def test_offloaded_weights_give_the_same_with_dora_on_what_is_patched_while_it_is_cast(seen, how):
    found = seen["partly"][how]
    assert seen["partly"]["plain"] > 1e-3
    assert seen["partly"]["same output"]
    assert found["left behind"] > 5
    assert (found["loaded"] > 0.2) == (how == "lowvram")
    assert "live: the model does not fit the device" in found["auto"]
    for file in strengths("flux"):
        assert found[file] < 1e-5, file


def curve(text: str, percent: float) -> float:
    points = [tuple(map(float, piece.split(":"))) for piece in text.split(",")]
    for (p, a), (q, b) in zip(points, points[1:], strict=False):
        if p <= percent <= q:
            return a + (b - a) * (percent - p) / (q - p)
    return points[-1][1]


@pytest.mark.parametrize("model", ["sd15", "flux"])
def test_the_strength_at_each_step_is_the_curves(seen, model):
    for case, found in zip(cases(), seen[f"steps-{model}"], strict=True):
        calls, sigmas = found["calls"], found["sigmas"]
        if case.get("cfg"):
            continue
        steps = len(sigmas) - 1
        assert len(calls) == steps
        for step, (sigma, (strength,), _) in enumerate(calls):
            assert sigma == pytest.approx(sigmas[step], rel=1e-5)
            percent = step / (steps - 1)
            if case.get("percent_of") == "noise":
                if "start" in case:
                    first, last = found["edges"]
                    inside = last * (1 - 1e-5) <= sigma <= first * (1 + 1e-5)  # an edge is inside
                    assert strength == (1.0 if inside else 0.0), (case, step)
                continue
            if "start" in case:
                assert strength == (1.0 if 0.25 <= percent <= 0.5 else 0.0), (case, step)
            else:
                wanted = case.get("strength", 1.0) * curve(CURVE, percent)
                assert strength == pytest.approx(wanted, abs=1e-6), (case, step)
    on = [sum(s != 0 for _, (s,), _ in found["calls"]) for found in seen[f"steps-{model}"][:12]]
    assert all(0 < count < 20 for count in on[4:]), on


def test_a_schedule_by_noise_follows_the_models_own_percentages(seen):
    """Flux: sigma = e^mu / (e^mu + 1 / t - 1), so the percentage 1 - t is had back from sigma by hand."""
    case, found = cases()[12], seen["steps-flux"][12]
    shift = math.exp(1.15)
    for sigma, (strength,), _ in found["calls"]:
        t = 1 / (1 + shift * (1 / sigma - 1))
        assert strength == pytest.approx(curve(case["keyframes"], 1 - t), abs=1e-4)


@pytest.mark.parametrize("model", ["sd15", "flux"])
def test_each_prompt_has_its_own_strength_where_they_differ(seen, model):
    found = seen[f"steps-{model}"][13]
    assert len(found["calls"]) == 40
    for number, (_, (strength,), prompts) in enumerate(found["calls"]):
        step = number // 2
        assert prompts == [number % 2]
        assert strength == (0.5 if step / 19 >= 0.1 and prompts == [0] else 0.0)


def test_custom_sampling_is_as_right_and_a_schedule_follows_its_sigmas(seen):
    found = seen["custom"]
    assert found["effect"] > 1e-3
    assert found["live"] < 1e-5
    assert [strength for (strength,) in found["strengths"]] == pytest.approx([0.8 * step / 5 for step in range(6)])
    assert found["base"]


def test_under_cores_torch_compile_node_it_does_the_same(seen):
    for strength, error, effect in seen["compiled"]["strengths"]:
        assert error < 1e-5, strength
        assert effect > 1e-3
    assert seen["compiled"]["base"]
