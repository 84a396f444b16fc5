"""The UNets of SD1.5, SD2.x, SDXL (base and refiner) and Stable Video Diffusion.

diffusers counts blocks by level and kind (`down_blocks.1.attentions.0`), the original counts every step from the input
(`input_blocks.4.1`), so the mapping depends on the contents of the levels. It is read off the target's own names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ._words import ORIGINAL, Architecture, Rule, Side, block, one, pairs, two_layers, words

_RESNET = (
    "norm1=in_layers.0 conv1=in_layers.2 norm2=out_layers.0 conv2=out_layers.3",
    "time_emb_proj=emb_layers.1 conv_shortcut=skip_connection",
)

_ENDS = (
    *two_layers("time_embedding", "time_embed"),
    *two_layers("add_embedding", "label_emb.0"),
    *two_layers("class_embedding", "label_emb.0"),
    one("class_embedding", "label_emb"),
    *pairs("conv_in=input_blocks.0.0 conv_norm_out=out.0 conv_out=out.2"),
)

# A video UNet's residual block is one over space and one over time: (path below diffusers' block, the original's).
_IMAGE, _VIDEO = (("", ""),), ((".spatial_res_block", ""), (".temporal_res_block", ".time_stack"))

# Inside a transformer both sides have the same names, but for those of a video UNet's layers over time.
_OVER_TIME = words(
    ".temporal_transformer_blocks.=.time_stack.",
    ".time_pos_embed.linear_1=.time_pos_embed.0 .time_pos_embed.linear_2=.time_pos_embed.2",
)

# What tells a video UNet.
_VIDEO_OURS = "input_blocks.1.0.time_stack.in_layers.2"
_VIDEO_THEIRS = "down_blocks.0.resnets.0.temporal_res_block.conv1"

_RESNETS, _ATTENTIONS, _SAMPLER = "resnets", "attentions", "sampler"

# (module below a step's path in original names, the kind of step that has it)
_MARKS = (("in_layers.2", _RESNETS), ("proj_in", _ATTENTIONS), ("op", _SAMPLER), ("conv", _SAMPLER))

# (the original's list of blocks, diffusers' list, diffusers' name of its samplers)
_PARTS = (("input_blocks", "down_blocks", "downsamplers"), ("output_blocks", "up_blocks", "upsamplers"))

_BLOCKS = r"(down|up)_blocks\.\d+\.\w+\.\d+|mid_block\.\w+\.\d+|(in|out)put_blocks\.\d+\.\d+|middle_block\.\d+"

Block = tuple[str, str, str]
"""(kind, diffusers path, original path)"""


def _expand(side: str, modules: Collection[str]) -> tuple[Rule, ...]:
    """The rules of a target's blocks, `modules` being its module paths in the names of `side`."""
    rules: list[Rule] = []
    halves = _VIDEO if _is_video(modules) else _IMAGE
    attentions: dict[str, tuple[str, str]] = {}
    for kind, theirs, ours in (_blocks_of_original if side == ORIGINAL else _blocks_of_diffusers)(modules):
        if kind == _RESNETS:
            for their_half, our_half in halves:
                rules += block(theirs + their_half, ours + our_half, *_RESNET)
        elif kind == _SAMPLER:
            rules.append(one(theirs, ours))
        else:
            attentions[ours if side == ORIGINAL else theirs] = (theirs, ours)
    for module in modules:
        head = _head(module)
        if head in attentions:
            theirs, ours = attentions[head]
            their_rest = our_rest = module[len(head) :]
            for their_word, our_word in _OVER_TIME:
                their_rest = their_rest.replace(our_word, their_word)
                our_rest = our_rest.replace(their_word, our_word)
            rules.append(one(theirs + their_rest, ours + our_rest))
    return tuple(rules)


def _is_video(modules: Collection[str]) -> bool:
    return _VIDEO_OURS in modules or _VIDEO_THEIRS in modules


def _head(module: str) -> str:
    """The path of the step a module belongs to, in either spelling."""
    parts = module.split(".")
    if parts[0] in ("input_blocks", "output_blocks", "mid_block"):
        return ".".join(parts[:3])
    return ".".join(parts[:2] if parts[0] == "middle_block" else parts[:4])


def _blocks_of_original(modules: Collection[str]) -> Iterator[Block]:
    for part, side, sampler in _PARTS:
        level = place = 0
        for number in range(_count(modules, part)):
            ended = False
            for ours, kind in _steps(modules, f"{part}.{number}"):
                if kind == _SAMPLER:
                    yield kind, f"{side}.{level}.{sampler}.0.conv", f"{ours}.{'op' if part[0] == 'i' else 'conv'}"
                    ended = True
                else:
                    yield kind, f"{side}.{level}.{kind}.{place}", ours
            if ended:
                level, place = level + 1, 0
            elif number or part == "output_blocks":  # input_blocks.0 is the first convolution
                place += 1
    yield from _middle_blocks(_steps(modules, "middle_block"))


def _count(modules: Collection[str], part: str) -> int:
    return 1 + max((int(m.split(".")[1]) for m in modules if m.startswith(f"{part}.")), default=-1)


def _steps(modules: Collection[str], path: str) -> Iterator[tuple[str, str]]:
    """The steps below `path` in order with their kinds."""
    for number in range(3):
        for mark, kind in _MARKS:
            if f"{path}.{number}.{mark}" in modules:
                yield f"{path}.{number}", kind
                break


def _blocks_of_diffusers(modules: Collection[str]) -> Iterator[Block]:
    conv = "spatial_res_block.conv1" if _is_video(modules) else "conv1"
    for part, side, sampler in _PARTS:
        number = 1 if part == "input_blocks" else 0  # input_blocks.0 is the first convolution
        for level in range(_count(modules, side)):
            place = 0
            while f"{side}.{level}.resnets.{place}.{conv}" in modules:
                steps = 1
                yield _RESNETS, f"{side}.{level}.resnets.{place}", f"{part}.{number}.0"
                if f"{side}.{level}.attentions.{place}.proj_in" in modules:
                    yield _ATTENTIONS, f"{side}.{level}.attentions.{place}", f"{part}.{number}.1"
                    steps = 2
                number, place = number + 1, place + 1
            path = f"{side}.{level}.{sampler}.0.conv"
            if path in modules and side == "down_blocks":
                yield _SAMPLER, path, f"{part}.{number}.0.op"
                number += 1
            elif path in modules:  # an upsampler is the last step of its level's last block
                yield _SAMPLER, path, f"{part}.{number - 1}.{steps}.conv"
    kinds = [_RESNETS]
    for place in range(2):
        if f"mid_block.attentions.{place}.proj_in" in modules:
            kinds.append(_ATTENTIONS)
        if f"mid_block.resnets.{place + 1}.{conv}" in modules:
            kinds.append(_RESNETS)
    yield from _middle_blocks((f"middle_block.{number}", kind) for number, kind in enumerate(kinds))


def _middle_blocks(steps: Iterable[tuple[str, str]]) -> Iterator[Block]:
    """The blocks of the middle, from (original path, kind) of its steps in order."""
    places = {_RESNETS: 0, _ATTENTIONS: 0}
    for ours, kind in steps:
        yield kind, f"mid_block.{kind}.{places[kind]}", ours
        places[kind] += 1


def _unet(name: str, title: str, original: Side, diffusers: Side) -> Architecture:
    return Architecture(name, title, original, diffusers, _ENDS, _expand, _BLOCKS)


_TIME, _TIME_THEIRS = "time_embed.0", "time_embedding.linear_1"

TABLES = (
    _unet(
        "svd",
        "Stable Video Diffusion",
        Side(has=(_TIME, "input_blocks.0.0", _VIDEO_OURS)),
        Side(has=(_TIME_THEIRS, "conv_in", _VIDEO_THEIRS)),
    ),
    _unet(
        "sdxl_refiner",
        "SDXL refiner",
        Side(has=(_TIME, "label_emb.0.0", "input_blocks.11.0.in_layers.2"), lacks=("input_blocks.1.1.proj_in",)),
        Side(
            has=(_TIME_THEIRS, "add_embedding.linear_1", "down_blocks.3.resnets.0.conv1"),
            lacks=("down_blocks.0.attentions.0.proj_in",),
        ),
    ),
    _unet(
        "sdxl",
        "SDXL",
        Side(has=(_TIME, "label_emb.0.0", "input_blocks.0.0"), lacks=("input_blocks.1.1.proj_in",)),
        Side(has=(_TIME_THEIRS, "add_embedding.linear_1", "down_blocks.0.resnets.0.conv1")),
    ),
    _unet(
        "sd_x4",
        "Stable Diffusion x4 upscaler",
        Side(has=(_TIME, "label_emb", "input_blocks.4.1.proj_in"), lacks=("input_blocks.1.1.proj_in",)),
        Side(
            has=(_TIME_THEIRS, "class_embedding", "down_blocks.1.attentions.0.proj_in"),
            lacks=("down_blocks.0.attentions.0.proj_in",),
        ),
    ),
    _unet(
        "sd15",
        "Stable Diffusion 1.x",
        Side(has=(_TIME, "input_blocks.0.0", "input_blocks.1.1.proj_in:4")),
        Side(has=(_TIME_THEIRS, "conv_in", "down_blocks.0.attentions.0.proj_in:4")),
    ),
    _unet(
        "sd2",
        "Stable Diffusion 2.x",
        Side(has=(_TIME, "input_blocks.0.0", "input_blocks.1.1.proj_in:2")),
        Side(has=(_TIME_THEIRS, "conv_in", "down_blocks.0.attentions.0.proj_in:2")),
    ),
)
