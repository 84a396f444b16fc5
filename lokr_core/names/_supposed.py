"""The weights that a model must have for a file to be for it: its header as far as the file's names and shapes tell.

With it a file's names are translated without the model. What only the model knows stays unknown: the rows of a fused
weight's parts if they are measured on a module that the file lacks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache

from ._registry import ARCHITECTURES, guesses, spelled
from ._words import DIFFUSERS, ORIGINAL, Architecture, Shape, Side, mask_numbers

# Words of UNets' names with "_" inside; all other "_" of a flattened name stand for dots.
_UNET_WORDS = re.split(
    r"\s+",
    "down_blocks up_blocks mid_block input_blocks output_blocks middle_block transformer_blocks to_q to_k to_v to_out "
    "proj_in proj_out time_emb_proj conv_shortcut conv_in conv_out conv_norm_out time_embedding add_embedding "
    "class_embedding linear_1 linear_2 in_layers out_layers emb_layers skip_connection time_embed label_emb",
)
# Title -> (levels of the UNet, those of them with attention, axes of proj_in, whether it has a class embedding).
_UNETS = {
    "Stable Diffusion 1.x": (4, (0, 1, 2), 4, False),
    "Stable Diffusion 2.x": (4, (0, 1, 2), 2, False),
    "SDXL": (3, (1, 2), 2, True),
    "SDXL refiner": (4, (1, 2), 2, True),
}
# Ends of a UNet's convolutions of 3 × 3 and of 1 × 1.
_THREE = ("conv1", "conv2", ".conv", "in_layers.2", "out_layers.3", ".op", "conv_in", "conv_out", "input_blocks.0.0")
_ONE = ("conv_shortcut", "skip_connection")
_SHARE = 0.8
"""Share of a file's modules that the tables must name."""


def supposed_shapes(modules: Mapping[str, Shape]) -> tuple[str, dict[str, Shape]] | None:
    """(title of the architecture, name of a weight -> shape) that a file's names and shapes tell.

    modules: module paths of one model, dotted or flattened, in either naming -> shapes of their updates

    Shapes of weights that only tell the architecture are (0,). Returns None if no table has the names.

    >>> title, shapes = supposed_shapes({"double_blocks_0_img_attn_qkv": (96, 32)})
    >>> title, shapes["double_blocks.0.img_attn.qkv.weight"]
    ('Flux.1', (96, 32))
    """
    for title in guesses(modules):
        architecture = next(a for a in ARCHITECTURES if a.title == title)
        for name, side in ((ORIGINAL, architecture.original), (DIFFUSERS, architecture.diffusers)):
            if side is None:
                continue
            found = _unet(modules, title, name) if title in _UNETS else _by_rules(modules, architecture, name)
            if found:
                return title, {**_probes(side, found), **found}
    return None


def _by_rules(modules: Mapping[str, Shape], architecture: Architecture, side: str) -> dict[str, Shape]:
    """The file's weights in dotted names of a side; empty if the side has too few of them."""
    index = _flat_index(architecture, side)
    found: dict[str, Shape] = {}
    for path, shape in modules.items():
        masked, numbers = mask_numbers(path.replace(".", "_"))
        dotted = path if "." in path else None
        for pattern in index.get(masked, ()):
            _, wanted = mask_numbers(pattern)
            if all(w[0] == "{" or w == n for w, n in zip(wanted, numbers, strict=True)):
                dotted = _filled(pattern, numbers)
                break
        else:
            continue
        found[f"{dotted}.weight"] = shape
    return found if len(found) >= _SHARE * len(modules) else {}


@cache
def _flat_index(architecture: Architecture, side: str) -> dict[str, list[str]]:
    """Flattened pattern of a side with masked numbers -> the dotted patterns."""
    found: dict[str, list[str]] = {}
    for rule in architecture.rules:
        for pattern in rule.names(side):
            found.setdefault(mask_numbers(pattern.replace(".", "_"))[0], []).append(pattern)
    return found


def _filled(pattern: str, numbers: Collection[str]) -> str:
    """A dotted pattern with a name's numbers."""
    masked, _ = mask_numbers(pattern, "\0")
    pieces = masked.split("\0")
    return "".join(piece + number for piece, number in zip(pieces, [*numbers, ""], strict=True))


def _probes(side: Side, found: Mapping[str, Shape]) -> dict[str, Shape]:
    """The weights by which a side's architecture is recognised, without sizes."""
    probes = [probe.partition(":") for probe in side.has]
    return {f"{path}.weight": (0,) * int(axes or 1) for path, _, axes in probes if f"{path}.weight" not in found}


def _unet(modules: Mapping[str, Shape], title: str, side: str) -> dict[str, Shape]:
    """The file's weights in a UNet's dotted names of a side, with the blocks that the other side's numbers count."""
    skeleton: dict[str, Shape] = dict(_skeleton(title))
    if side == ORIGINAL:
        names = spelled(skeleton, ORIGINAL)
        skeleton = {f"{name}.weight": skeleton[f"{slots[0].module}.weight"] for name, slots in names.items()}
    heads = {_head(name.removesuffix(".weight")) for name in skeleton}
    found = {}
    for path, shape in modules.items():
        dotted = path if "." in path else _dotted(path)
        if _head(dotted) in heads:
            found[f"{dotted}.weight"] = _with_kernel(dotted, shape, title)
    return {**skeleton, **found} if len(found) >= _SHARE * len(modules) else {}


def _head(path: str) -> str:
    return path.split(".")[0]


def _dotted(path: str) -> str:
    """A flattened name of a UNet's module with its dots.

    >>> _dotted("down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0")
    'down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0'
    """
    dotted = path.replace("_", ".")
    for word in _UNET_WORDS:
        dotted = dotted.replace(word.replace("_", "."), word)
    return dotted


def _with_kernel(path: str, shape: Shape, title: str) -> Shape:
    """The shape of a weight whose kernel the file flattened into the columns."""
    if len(shape) != 2:
        return shape
    out, columns = shape
    if path.endswith(_THREE) and columns % 9 == 0:
        return out, columns // 9, 3, 3
    pointwise = path.endswith(_ONE) or (path.endswith(("proj_in", "proj_out")) and _UNETS[title][2] == 4)
    return (out, columns, 1, 1) if pointwise else shape


def _skeleton(title: str) -> Iterator[tuple[str, Shape]]:
    """The weights of a UNet that its blocks are counted by, in diffusers' names, without sizes."""
    levels, attentions, axes, classes = _UNETS[title]
    ends = [("conv_in", 4), ("time_embedding.linear_1", 2), ("conv_out", 4)]
    ends += [("add_embedding.linear_1", 2)] if classes else []
    steps = [(f"mid_block.resnets.{n}.conv1", 4) for n in range(2)] + [("mid_block.attentions.0.proj_in", axes)]
    for level in range(levels):
        for part, count, with_attention in (
            ("down_blocks", 2, level in attentions),
            ("up_blocks", 3, levels - 1 - level in attentions),
        ):
            for n in range(count):
                steps.append((f"{part}.{level}.resnets.{n}.conv1", 4))
                if with_attention:
                    steps.append((f"{part}.{level}.attentions.{n}.proj_in", axes))
        if level < levels - 1:
            steps.append((f"down_blocks.{level}.downsamplers.0.conv", 4))
            steps.append((f"up_blocks.{level}.upsamplers.0.conv", 4))
    yield from ((f"{name}.weight", (0,) * count) for name, count in (*ends, *steps))
