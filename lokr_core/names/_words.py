"""The words in which name tables are written. Data only: `matching` reads them.

A table pairs the ORIGINAL names of an architecture (its authors' repository, ComfyUI, A1111) with DIFFUSERS' names (for
text encoders: transformers'). A pattern is a dotted module path whose block numbers stand as `{i}`, `{j}`:

>>> one("transformer_blocks.{i}.attn.to_out.0", "double_blocks.{i}.img_attn.proj").original
'double_blocks.{i}.img_attn.proj'
>>> fused("double_blocks.{i}.img_attn.qkv", "transformer_blocks.{i}.attn.", "to_q to_k to_v").diffusers
('transformer_blocks.{i}.attn.to_q', 'transformer_blocks.{i}.attn.to_k', 'transformer_blocks.{i}.attn.to_v')
>>> split("transformer_blocks.{i}.ff.net.0.proj", "double_blocks.{i}.img_mlp.", "up_proj gate_proj").parts
('double_blocks.{i}.img_mlp.up_proj', 'double_blocks.{i}.img_mlp.gate_proj')
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

ORIGINAL, DIFFUSERS = "original", "diffusers"

IN = "in"
"""A size: as many rows as the fused weight has columns."""
REST = "rest"
"""A size: an equal share of the rows that the other parts leave."""


FUSIONS = (
    ("to_qkv", ("to_q", "to_k", "to_v")),
    ("to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj")),
    ("to_kv", ("to_k", "to_v")),
)
"""Diffusers' name for modules of a block once `fuse_qkv_projections` has made one of them, and their own."""


@dataclass(frozen=True)
class Slot:
    """Where an update goes: a weight of the target, or rows of it.

    `module` is the target's module path in the target's own spelling and `parameter` its weight there, so the weight is
    `f"{module}.{parameter}"`. `rows` = (start, length) on dim 0 of that weight, None for all of it. `swap`: the two
    halves of the update's rows stand the other way round in the target. `source_rows` = (start, length) of the rows of
    the FILE's module that go here, where the file's module is fused and the target's weights are split; None for all.
    """

    module: str
    rows: tuple[int, int] | None = None
    swap: bool = False
    source_rows: tuple[int, int] | None = None
    parameter: str = "weight"


@dataclass(frozen=True)
class Rule:
    """One weight in original names and the diffusers modules that make it up, in the order of their rows.

    `sizes` has a size per diffusers module where there are several: `IN`, `REST`, or the pattern of another module of
    the original whose number of columns it is. `swap`: two halves of rows stand the other way round. `ratio`: the rule
    holds only where the weight has `ratio` times as many rows as columns. `order`: equal parts of rows stand in another
    order; the numbers of the original's parts as they stand in diffusers. `parts`: the original's modules, `original`
    among them, where it is the original that has several and diffusers one.
    """

    original: str
    diffusers: tuple[str, ...]
    sizes: tuple[str, ...] = (REST,)
    swap: bool = False
    ratio: float | None = None
    order: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()

    def names(self, side: str) -> tuple[str, ...]:
        """The modules of a side: several on at most one of the two."""
        return self.diffusers if side == DIFFUSERS else self.parts or (self.original,)


def one(diffusers: str, original: str, swap: bool = False, ratio: float | None = None) -> Rule:
    """A weight that has one name on each side."""
    return Rule(original, (diffusers,), swap=swap, ratio=ratio)


def fused(original: str, diffusers_prefix: str, members: str, sizes: str = "") -> Rule:
    """A weight that diffusers holds in several modules; `members` and `sizes` are separated by spaces, in row order.

    Without `sizes` all members are of one size.
    """
    names = tuple(diffusers_prefix + member for member in members.split())
    return Rule(original, names, tuple(sizes.split()) or (REST,) * len(names))


def split(diffusers: str, original_prefix: str, members: str) -> Rule:
    """A weight of diffusers that the original holds in several modules of one size, in row order."""
    names = tuple(original_prefix + member for member in members.split())
    return Rule(names[0], (diffusers,), (REST,) * len(names), parts=names)


def block(diffusers: str, original: str, *pairs: tuple[str, str]) -> tuple[Rule, ...]:
    """Rules for the modules of one block: every pair stands below the two prefixes."""
    return tuple(one(f"{diffusers}.{d}", f"{original}.{o}") for d, o in pairs)


@dataclass(frozen=True)
class Prefix:
    """Prefixes that mean the same subtree; the first is the one tables are written in.

    A target uses the prefix under which `probe` exists.
    """

    probe: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """How to know that a target is in these names, and how else producers spell them.

    `has` and `lacks` are module paths; "path:N" asks for a weight of N axes. Each of `spellings` is a list of (text,
    text instead), tried on every name of this side; where it changes one, the changed name is an alias too.
    """

    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    spellings: tuple[tuple[tuple[str, str], ...], ...] = ()


@dataclass(frozen=True)
class Architecture:
    """An architecture's table. `expand` makes further rules for tables whose block numbers depend on the layout.

    `note` says what is unverified or has no public naming.
    """

    name: str
    title: str
    original: Side
    diffusers: Side | None
    rules: tuple[Rule, ...] = ()
    expand: Callable[[str, Collection[str]], tuple[Rule, ...]] | None = None
    note: str = ""

    def __hash__(self) -> int:
        return hash(self.name)
