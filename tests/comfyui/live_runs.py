"""Further jobs of in_host.py about live application: models that are loaded in part, and strengths over a run."""

from __future__ import annotations

import comfy.model_management as management
import comfy.samplers
import torch
from live_jobs import core, distance, ours, watched, write

import __main__ as host
import nodes


def partly_loaded(model: str, files: dict[str, float], lora: str, out: str) -> None:
    """Weights left on the other side, patched while they are cast, against all loaded: none loaded (as --novram has it)
    and a part (as --lowvram does).

    ComfyUI leaves nothing behind where the device is the CPU itself, so here the CPU stands for another device.
    """
    base, _ = host.load(model)
    plain = host.sample(base)
    wanted = {file: host.sample(core(ours(base, file, s)[0], lora, 0.8)) for file, s in files.items()}
    found = {"plain": distance(next(iter(wanted.values())), plain)}
    management.unload_all_models()
    saved = management.is_device_cpu, management.vram_state, management.get_free_memory
    management.is_device_cpu = lambda device: False
    try:
        for name, state in (("novram", management.VRAMState.NO_VRAM), ("lowvram", management.VRAMState.LOW_VRAM)):
            management.vram_state = state
            if name == "lowvram":
                room = management.minimum_inference_memory() + base.model_size() // 2

                def free(device=None, torch_free_too=False, room=room):
                    left = room - base.loaded_size()
                    return (left, left) if torch_free_too else left

                management.get_free_memory = free
            row = found[name] = {"auto": ours(base, next(iter(files)), 1.0, "auto")[2]}
            for file, strength in files.items():
                part = core(ours(base, file, strength)[0], lora, 0.8)
                row[file] = distance(host.sample(part), wanted[file])
                row["left behind"] = sum(hasattr(m, "prev_comfy_cast_weights") for m in base.model.modules())
                row["loaded"] = base.loaded_size() / base.model_size()
                del part
            management.unload_all_models()
    finally:
        management.is_device_cpu, management.vram_state, management.get_free_memory = saved
    found["same output"] = torch.equal(host.sample(base), plain)
    write(out, found)


def scheduled(model: str, file: str, cases: list[dict], out: str) -> None:
    """20 steps with a schedule: per case the sigma and the strength in force at every call of the model."""
    base, _ = host.load(model)
    make = nodes.NODE_CLASS_MAPPINGS["LoKrSchedule"].EXECUTE_NORMALIZED
    sampling = base.model.model_sampling
    found = []
    for case in cases:
        (schedule,) = host.output(
            make(
                case.get("start", 0.0),
                case.get("end", 1.0),
                case.get("keyframes", ""),
                case.get("ease", "linear"),
                case.get("percent_of", "steps"),
                case.get("cond", 1.0),
                case.get("uncond", 1.0),
            )
        )
        patched = ours(base, file, case.get("strength", 1.0), "auto", schedule=schedule)[0]
        live = next(injected[0].inject.__self__ for injected in patched.injections.values())
        calls = []

        def see(options, live=live, calls=calls):
            strengths = [seat.handle.strength for seat in live.seats.values()]
            calls.append([options["sigmas"][0].item(), strengths, options["cond_or_uncond"]])

        torch.manual_seed(1)
        cond = [[torch.randn(1, 8, 768), {"pooled_output": torch.randn(1, 768)}]]
        latent = {"samples": torch.zeros(1, base.model.latent_format.latent_channels, 8, 8)}
        cfg, name = case.get("cfg", 1.0), case.get("sampler", "euler")
        nodes.common_ksampler(watched(patched, see), 5, 20, cfg, name, case["scheduler"], cond, cond, latent)
        sigmas = comfy.samplers.calculate_sigmas(sampling, case["scheduler"], 20).tolist()
        edges = [sampling.percent_to_sigma(case.get(name, i)) for i, name in enumerate(("start", "end"))]
        found.append({"calls": calls, "sigmas": sigmas, "edges": [float(edge) for edge in edges]})
    write(out, found)


def custom_sampling(model: str, file: str, out: str) -> None:
    """SamplerCustomAdvanced by core's own nodes: live and merged, and a schedule's strengths with its own sigmas."""
    from comfy_extras import nodes_custom_sampler as custom

    base, _ = host.load(model)
    make = nodes.NODE_CLASS_MAPPINGS["LoKrSchedule"].EXECUTE_NORMALIZED
    (schedule,) = host.output(make(0.0, 1.0, "0:0, 1:1", "linear", "steps", 1.0, 1.0))
    torch.manual_seed(1)
    cond = [[torch.randn(1, 8, 768), {"pooled_output": torch.randn(1, 768)}]]
    (noise,), (sampler,) = (
        host.output(n) for n in (custom.RandomNoise.execute(5), custom.KSamplerSelect.execute("euler"))
    )
    calls = []

    def run(patcher):
        sigmas = host.output(custom.BasicScheduler.execute(patcher, "simple", 6, 1.0))[0]
        (guider,) = host.output(custom.BasicGuider.execute(patcher, cond))
        latent = {"samples": torch.zeros(1, base.model.latent_format.latent_channels, 8, 8)}
        return host.output(custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent))[0]["samples"]

    plain = run(base)
    live, merged = (run(ours(base, file, 0.8, mode)[0]) for mode in ("live", "merge"))
    patched = ours(base, file, 0.8, schedule=schedule)[0]
    control = next(injected[0].inject.__self__ for injected in patched.injections.values())
    run(watched(patched, lambda _: calls.append([seat.handle.strength for seat in control.seats.values()])))
    again = torch.equal(run(base), plain)
    write(out, {"live": distance(live, merged), "effect": distance(live, plain), "strengths": calls, "base": again})


def compiled(model: str, file: str, out: str) -> None:
    """Core's TorchCompileModel after our loader, live: outputs against the same uncompiled, at several strengths."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    base, _ = host.load(model)
    plain = host.sample(base, steps=1)
    found = []
    for strength in (0.8, -0.5):
        live = ours(base, file, strength)[0]
        wanted = host.sample(live, steps=1)
        seen = host.sample(host.output(TorchCompileModel.execute(live, "inductor"))[0], steps=1)
        found.append([strength, distance(seen, wanted), distance(wanted, plain)])
    write(out, {"strengths": found, "base": torch.equal(host.sample(base, steps=1), plain)})


JOBS = {job.__name__: job for job in (partly_loaded, scheduled, custom_sampling, compiled)}
