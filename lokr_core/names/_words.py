"""The words in which name tables are written: data, which `_translate` reads.

A table pairs the ORIGINAL names of an architecture (its authors' repository, ComfyUI, A1111) with DIFFUSERS' names (for
text encoders: transformers'). A pattern is a dotted module path whose block numbers stand as `{i}`, `{j}`:

>>> one("transformer_blocks.{i}.attn.to_out.0", "double_blocks.{i}.img_attn.proj").original
'double_blocks.{i}.img_attn.proj'
>>> fused("double_blocks.{i}.img_attn.qkv", "transformer_blocks.{i}.attn.", "to_q to_k to_v").diffusers
('transformer_blocks.{i}.attn.to_q', 'transformer_blocks.{i}.attn.to_k', 'transformer_blocks.{i}.attn.to_v')
>>> split("transformer_blocks.{i}.ff.net.0.proj", "double_blocks.{i}.img_mlp.", "up_proj gate_proj").parts
('double_blocks.{i}.img_mlp.up_proj', 'double_blocks.{i}.img_mlp.gate_proj')
>>> [rule.original for rule in block("norm_out", "final_layer", "norm proj=linear")]
['final_layer.norm', 'final_layer.linear']
>>> [rule.original for rule in two_layers("time_embed", "time_in.mlp")]
['time_in.mlp.0', 'time_in.mlp.2']
>>> [rule.original for rule in attention("attn1", "self_attn", "q k v o")]
['self_attn.q', 'self_attn.k', 'self_attn.v', 'self_attn.o']
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

ORIGINAL, DIFFUSERS = "original", "diffusers"

WEIGHTS = ("weight", "scale", "gamma")
"""Names of a module's weight: a norm has one of the last two in some models."""

IN = "in"
"""Size of a part: as many rows as the fused weight has columns."""
REST = "rest"
"""Size of a part: an equal share of the rows that the other parts leave."""

FUSIONS = (
    ("to_qkv", ("to_q", "to_k", "to_v")),
    ("to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj")),
    ("to_kv", ("to_k", "to_v")),
)
"""(name of the module that diffusers' `fuse_qkv_projections` makes, names of the modules that it fuses)"""

_NUMBER = re.compile(r"(?<=[._])(\d+|\{\w+\})(?=[._]|$)")


@lru_cache(maxsize=1 << 14)
def mask_numbers(name: str, mask: str = "#") -> tuple[str, tuple[str, ...]]:
    """A module path, dotted or flattened, with its block numbers masked, and the numbers.

    A digit inside a word (`conv1`, `attn2`) tells layers apart and stays. A pattern's `{i}` counts as a number.

    >>> mask_numbers("blocks.3.attn2.to_out.0")
    ('blocks.#.attn2.to_out.#', ('3', '0'))
    >>> mask_numbers("blocks_{i}_attn2_to_out_0", mask="*")
    ('blocks_*_attn2_to_out_*', ('{i}', '0'))
    """
    pieces = _NUMBER.split(name)
    return mask.join(pieces[::2]), tuple(pieces[1::2])


@dataclass(frozen=True)
class Slot:
    """Where an update goes: a weight of the target, or rows of it.

    module: the target's module path in the target's own spelling
    rows: (start, length) on dim 0 of the target's weight; None for all rows
    swap: the two halves of the update's rows are in reverse order in the target
    source_rows: (start, length) of the rows of the FILE's module that go here, if that module is fused and the target's
        weights are split; None for all rows
    parameter: the weight's name in its module; the weight's own name is `f"{module}.{parameter}"`
    """

    module: str
    rows: tuple[int, int] | None = None
    swap: bool = False
    source_rows: tuple[int, int] | None = None
    parameter: str = "weight"

    def of(self, parameter: str) -> Slot:
        """The same place in the module's `parameter`, "weight" or "bias", by the target's name of it.

        >>> Slot("blocks.0.norm", parameter="gamma").of("bias").parameter
        'beta'
        """
        names = {"scale": "bias", "gamma": "beta"} if parameter == "bias" else {}
        return replace(self, parameter=names.get(self.parameter, self.parameter.replace("weight", parameter)))


def weight_name(slot: Slot) -> str:
    """The name of the parameter that a slot is part of.

    >>> weight_name(Slot("blocks.0.attn", rows=(0, 8)))
    'blocks.0.attn.weight'
    """
    return f"{slot.module}.{slot.parameter}" if slot.module else slot.parameter


@dataclass(frozen=True)
class Rule:
    """One weight in original names and the diffusers modules that make it up, in the order of their rows.

    original, diffusers: patterns of module paths
    sizes: rows of each diffusers module: `IN`, `REST`, or the pattern of an original module that has as many columns
    swap: the two halves of the rows are in reverse order on the other side
    ratio: the rule holds only for a weight with `ratio` times as many rows as columns
    order: equal parts of the rows are permuted; the original's part numbers in diffusers' order
    parts: the original's modules, the first of them `original`, if the original is split and diffusers is not
    stripes: (a module, n) if the rows of the parts alternate, each time n times as many as that module has; or None
    """

    original: str
    diffusers: tuple[str, ...]
    sizes: tuple[str, ...] = (REST,)
    swap: bool = False
    ratio: float | None = None
    order: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()
    stripes: tuple[str, int] | None = None

    def names(self, side: str) -> tuple[str, ...]:
        """The patterns of `side`, `ORIGINAL` or `DIFFUSERS`; at most one side has several."""
        return self.diffusers if side == DIFFUSERS else self.parts or (self.original,)


def one(diffusers: str, original: str, swap: bool = False, ratio: float | None = None) -> Rule:
    """A weight that has one name on each side."""
    return Rule(original, (diffusers,), swap=swap, ratio=ratio)


def fused(original: str, diffusers_prefix: str, members: str, sizes: str = "") -> Rule:
    """A weight that diffusers holds in several modules: `members` and their `sizes`, separated by spaces, in row order.

    Without `sizes` all members have the same number of rows.
    """
    names = tuple(diffusers_prefix + member for member in members.split())
    return Rule(original, names, tuple(sizes.split()) or (REST,) * len(names))


def split(diffusers: str, original_prefix: str, members: str) -> Rule:
    """A weight of diffusers that the original holds in several modules of the same size: `members`, in row order."""
    names = tuple(original_prefix + member for member in members.split())
    return Rule(names[0], (diffusers,), (REST,) * len(names), parts=names)


def striped(diffusers: str, original_prefix: str, members: str, module: str, times: int) -> Rule:
    """``split`` into parts whose rows alternate in stripes of `times` the rows of `module`."""
    return replace(split(diffusers, original_prefix, members), stripes=(module, times))


def words(*rows: str) -> tuple[tuple[str, str], ...]:
    """The two sides of words `left=right`, separated by spaces; a word without `=` is the same on both sides.

    >>> words("norm proj=linear")
    (('norm', 'norm'), ('proj', 'linear'))
    """
    halves = (word.partition("=") for row in rows for word in row.split())
    return tuple((left, right or left) for left, _, right in halves)


def pairs(*rows: str) -> tuple[Rule, ...]:
    """Rules of one name on each side, from `words` `diffusers=original`."""
    return tuple(one(theirs, ours) for theirs, ours in words(*rows))


def block(diffusers: str, original: str, *rows: str) -> tuple[Rule, ...]:
    """Rules for the modules of one block: `pairs` below the two prefixes."""
    return tuple(one(f"{diffusers}.{theirs}", f"{original}.{ours}") for theirs, ours in words(*rows))


def two_layers(diffusers: str, original: str, names: str = "0 2") -> tuple[Rule, ...]:
    """Rules for two Linears below the prefixes: diffusers' `linear_1` and `linear_2` are the original's `names`."""
    return _block_of(diffusers, original, "linear_1 linear_2", names)


def feed_forward(diffusers: str, original: str, names: str = "0 2") -> tuple[Rule, ...]:
    """Rules for a feed-forward below the prefixes: diffusers' `net.0.proj` and `net.2` are the original's `names`."""
    return _block_of(diffusers, original, "net.0.proj net.2", names)


def attention(diffusers: str, original: str, names: str, norms: str = "") -> tuple[Rule, ...]:
    """Rules for an attention below the prefixes.

    names: the original's names of diffusers' `to_q`, `to_k`, `to_v`, `to_out.0`
    norms: those of `norm_q` and `norm_k`, if it has them
    """
    theirs = "to_q to_k to_v to_out.0 norm_q norm_k" if norms else "to_q to_k to_v to_out.0"
    return _block_of(diffusers, original, theirs, f"{names} {norms}")


def joint_attention(diffusers: str, image: str, text: str, norms: str) -> tuple[Rule, ...]:
    """Rules for an attention over two streams, which the original holds as `qkv` and `proj` below `image` and `text`.

    norms: the original's names of diffusers' `norm_q` and `norm_k`

    `to_qkv` and `to_added_qkv` are diffusers' after `fuse_qkv_projections`.
    """
    return (
        fused(f"{image}.qkv", f"{diffusers}.", "to_q to_k to_v"),
        fused(f"{text}.qkv", f"{diffusers}.", "add_q_proj add_k_proj add_v_proj"),
        *_block_of(diffusers, image, "to_qkv to_out.0 norm_q norm_k", f"qkv proj {norms}"),
        *_block_of(diffusers, text, "to_added_qkv to_add_out norm_added_q norm_added_k", f"qkv proj {norms}"),
    )


def _block_of(diffusers: str, original: str, theirs: str, ours: str) -> tuple[Rule, ...]:
    return block(diffusers, original, *map("=".join, zip(theirs.split(), ours.split(), strict=True)))


@dataclass(frozen=True)
class PrefixGroup:
    """Prefixes of the same subtree; the first is the one that tables use.

    A target uses the prefix below which the module `probe` exists; without a probe the prefix is a module's whole name.
    """

    probe: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """How to recognise a target in the names of one side, and which other spellings of them producers use.

    has, lacks: module paths that must and must not exist; "path:N" requires a weight of N axes
    prefixes: groups of prefixes that mean the same
    spellings: lists of (text, replacement); each list that changes a name of this side gives a further alias
    """

    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    prefixes: tuple[PrefixGroup, ...] = ()
    spellings: tuple[tuple[tuple[str, str], ...], ...] = ()


@dataclass(frozen=True)
class Architecture:
    """An architecture's table.

    diffusers: None if the architecture has one naming only
    expand: (side, module paths of the target) -> further rules, if block numbers depend on the target's layout
    blocks: regular expression of the blocks' names on either side, if there is ``expand``
    """

    name: str
    title: str
    original: Side
    diffusers: Side | None
    rules: tuple[Rule, ...] = ()
    expand: Callable[[str, Collection[str]], tuple[Rule, ...]] | None = None
    blocks: str = ""

    def __hash__(self) -> int:
        return hash(self.name)


def one_naming(name: str, title: str, *has: str, prefixes: tuple[PrefixGroup, ...] = ()) -> Architecture:
    """An architecture whose authors, ComfyUI and diffusers (if it has the model) use the same names.

    The probe of the first group of `prefixes` identifies it, together with `has`.
    """
    probes = [group.prefixes[0] + group.probe for group in prefixes[:1]]
    return Architecture(name, title, Side((*probes, *has), prefixes=prefixes), None)


# pos_emb_t only tells Cosmos 1 from Cosmos-Predict2.
PARAMETERS = frozenset((*WEIGHTS, "in_proj_weight", "pos_emb_t"))

Shape = tuple[int, ...]


class Weight(NamedTuple):
    """A weight of the target: its module's path, the parameter's name in there, its shape."""

    module: str
    parameter: str
    shape: Shape


class View(NamedTuple):
    """A target in the tables' terms: its architecture, the side its names belong to, table name -> weight."""

    architecture: Architecture
    side: str
    weights: Mapping[str, Weight]
