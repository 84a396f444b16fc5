"""LoKr files made on a diffusers model by the trainers' own code: PEFT's and LyCORIS', on every layer they take.

Each maker lets its library put a random LoKr on ``model`` and save it as a user's file would be, runs the model with it
in force, and takes it off again: (model, run, folder) -> (file, output, names of the layers). Layers whose forward a
model never calls (HunyuanDiT's pooler hands their weights to a function) cannot be trained by either, and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

UPDATE = 0.3
"""Size of an update of a weight, relative to the weight."""


def called(model: Any, run: Callable[[Any], Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    """The layers of these classes whose forward runs: name -> module."""
    import torch

    classes = tuple(getattr(torch.nn, kind) for kind in kinds)
    seen: set[Any] = set()
    found = {name: module for name, module in model.named_modules() if isinstance(module, classes)}
    hooks = [module.register_forward_hook(lambda module, *_: seen.add(module)) for module in found.values()]
    run(model)
    for hook in hooks:
        hook.remove()
    return {name: module for name, module in found.items() if module in seen}


def peft(model: Any, run: Callable[[Any], Any], folder: Path) -> tuple[Path, Any, list[str]]:
    from peft import LoKrConfig, get_peft_model

    names = list(called(model, run, ("Linear", "Conv1d", "Conv2d")))  # PEFT has no LoKr for Conv3d
    config = LoKrConfig(r=4, alpha=6, target_modules=names, decompose_both=True, rank_pattern={names[0]: 2})
    wrapped = get_peft_model(model, config)
    tuned = {name: module for name, module in model.named_modules() if hasattr(module, "lokr_w2_a")}
    for module in tuned.values():
        for parameter in (p for name, p in module.named_parameters() if "lokr_" in name):
            parameter.normal_()
        size = module.get_delta_weight("default").norm() / module.get_base_layer().weight.norm()
        first = module.lokr_w1 if "default" in module.lokr_w1 else module.lokr_w1_b
        first["default"].mul_(UPDATE / size)
    output = run(model)
    wrapped.save_pretrained(folder / "peft")
    wrapped.unload()
    return folder / "peft", output, list(tuned)


def lycoris(model: Any, run: Callable[[Any], Any], folder: Path) -> tuple[Path, Any, list[str]]:
    import torch
    from lycoris import LycorisNetwork

    kinds = ("Linear", "Conv1d", "Conv2d", "Conv3d")
    trainable = set(called(model, run, kinds).values())
    LycorisNetwork.apply_preset({"target_module": list(kinds)})
    # Whole, low-rank and Tucker factors all occur: it depends on the layer's size.
    network = LycorisNetwork(
        model, lora_dim=6, conv_lora_dim=6, alpha=3, conv_alpha=3, network_module="lokr", factor=4, use_tucker=True
    )
    for module in network.loras:
        for parameter in module.parameters():
            parameter.normal_()
        size = module.get_weight(module.shape).norm() / module.org_module[0].weight.norm()
        first = module.lokr_w1 if module.use_w1 else module.lokr_w1_a
        first.mul_(UPDATE / size if module.org_module[0] in trainable else 0)
    network.apply_to()
    network.eval()
    output = run(model)
    network.restore()
    file = folder / "lycoris.safetensors"
    network.save_weights(str(file), torch.float32, {})
    return file, output, [module.lora_name for module in network.loras]


MAKERS = {"peft": peft, "lycoris": lycoris}
