"""Files for a model of two experts, of high and of low noise (Wan 2.2): which modules are whose, and the choice of one.

Both experts have the same names and shapes, so a file tells them apart by the name of the model that they were in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

from ..adapter import Adapter, ModuleName
from ..errors import LoKrValueError
from ._producers import INNER_WRAPPERS, WRAPPERS

HIGH, LOW = "high", "low"
EXPERTS = (HIGH, LOW)

# What an expert is called by ai-toolkit and diffusers (transformer_1, transformer_2), Wan's authors and DiffSynth. For
# diffusers and DiffSynth the first one has the name that the only one of another model has.
_CALLED = {
    HIGH: ("transformer_1", "high_noise_model", "high_noise"),
    LOW: ("transformer_2", "low_noise_model", "low_noise", "pipe.dit2"),
}
_FIRST = (("transformer", "transformer_2"), ("pipe.dit", "pipe.dit2"))
_EXPERT_OF = {word: expert for expert, words in _CALLED.items() for word in words}
_ANY = "|".join(sorted(map(re.escape, _EXPERT_OF), key=len, reverse=True))
_WORD = re.compile(rf"(?:^|(?<=[._]))({_ANY})[._]$")
_OWN_WORD = re.compile(rf"(?:^|(?<=[._]))(?:{_ANY}|{'|'.join(re.escape(first) for first, _ in _FIRST)})[._]$")
_LEADING = re.compile(rf"({_ANY})[._]")
_WRAPPED = re.compile("^" + WRAPPERS.pattern)
# In the name of a model's file or folder. ``high_res`` and the like say nothing about noise.
_IN_A_NAME = re.compile(r"(?<![a-z])(high|low)(?:[\W_]?noise|(?![a-z]|[\W_]?(?:res|quality|vram|poly|light)))", re.I)


def checked_expert(expert: str) -> str:
    """``expert`` in lower case: "high", "low", or "" for none. Raises LoKrValueError if it is another word.

    >>> checked_expert("High")
    'high'
    """
    word = (expert or "").strip().lower()
    if word and word not in EXPERTS:
        raise LoKrValueError("Unknown expert", expected="expert=high or expert=low", found=expert)
    return word


def with_experts(names: Mapping[str, ModuleName]) -> dict[str, ModuleName]:
    """``names`` with the expert that each is of, and the expert's name taken out of the path.

    >>> name = ModuleName("diffusion_model.transformer_2.blocks.0.ffn.0", "transformer_2.blocks.0.ffn.0", "unet")
    >>> found = with_experts({name.full: name})[name.full]
    >>> found.expert, found.path
    ('low', 'blocks.0.ffn.0')
    """
    found = {module: _with_expert(name) for module, name in names.items()}
    for first, second in _FIRST:
        if any(_head(name).endswith(f"{second}.") for name in found.values()):
            for module, name in found.items():
                if not name.expert and _head(name).endswith(f"{first}."):
                    found[module] = replace(name, expert=HIGH)
    return found


def _with_expert(name: ModuleName) -> ModuleName:
    leading = _LEADING.match(name.path)
    if leading:
        rest = _WRAPPED.sub("", name.path[leading.end() :])
        return replace(name, path=rest, component=name.component or "unet", expert=_EXPERT_OF[leading.group(1)])
    word = _WORD.search(_head(name))
    return replace(name, expert=_EXPERT_OF[word.group(1)]) if word else name


def _head(name: ModuleName) -> str:
    """What stands before a module's path in its full name, without wrappers."""
    head = re.sub(INNER_WRAPPERS, "", name.full).removesuffix(name.path)
    return re.sub(WRAPPERS.pattern + "$", "", head)


def own_path(name: ModuleName) -> str:
    """A module's path with the name of its expert before it, as a model that holds both experts spells it.

    >>> own_path(ModuleName("base_model.model.transformer.proj", "proj", "unet", expert="high"))
    'transformer.proj'
    """
    word = _OWN_WORD.search(_head(name)) if name.expert else None
    return word.group() + name.path if word else name.path


def expert_called(name: str) -> str:
    """The expert that a model's file, folder or place in a pipeline names, "" if it does not tell.

    >>> expert_called("models/wan2.2_t2v_low_noise_14B_fp16.safetensors"), expert_called("transformer")
    ('low', '')
    """
    parts = PurePath(name.replace("\\", "/")).parts[-2:]
    found = {_EXPERT_OF.get(part, "") for part in parts} - {""}
    found |= {word.lower() for part in parts for word in _IN_A_NAME.findall(part)}
    return found.pop() if len(found) == 1 else ""


def experts_of(adapter: Adapter) -> list[str]:
    """The experts that a file's modules are of: "high", "low", both or neither."""
    names = [*adapter.names.values(), *(each.name for each in adapter.foreign.modules.values())]
    found = {name.expert for name in names}
    return [expert for expert in EXPERTS if expert in found]


def choose_expert(adapter: Adapter, expert: str, why: str = "") -> Adapter:
    """``adapter`` without the modules of the other expert; itself if ``expert`` is "" or the file has no experts.

    why: how the expert was chosen, for the note

    Raises LoKrValueError if the file is for the other expert alone, or ``expert`` is an unknown word.
    """
    expert, found = checked_expert(expert), experts_of(adapter)
    if not expert:
        return adapter
    if not found:
        notes = [*adapter.notes, f"expert={expert} has no effect: the file does not tell experts apart"]
        return replace(adapter, notes=notes)
    if expert not in found:
        raise LoKrValueError(
            f"The file holds nothing for the {expert} noise expert",
            file=adapter.path,
            expected=f"modules of the {expert} noise expert",
            found=f"modules of the {found[0]} noise expert alone",
            hint=f"choose expert={found[0]}, or load the file for the other expert",
        )
    if len(found) == 1:
        return adapter
    kept = {module for module, name in adapter.names.items() if name.expert in ("", expert)}
    foreign = {module for module, each in adapter.foreign.modules.items() if each.name.expert in ("", expert)}
    left = len(adapter.modules) + len(adapter.foreign.modules) - len(kept) - len(foreign)
    return replace(
        adapter,
        modules={module: weights for module, weights in adapter.modules.items() if module in kept},
        names={module: name for module, name in adapter.names.items() if module in kept},
        foreign=adapter.foreign.select(foreign),
        notes=[
            *(note for note in adapter.notes if note not in two_experts(adapter)),
            f"the file holds two experts: the {expert} noise expert is used{why}, {left} modules of the other are not",
        ],
    )


def two_experts(adapter: Adapter) -> list[str]:
    """The note on a file that holds both experts, empty for any other."""
    if len(experts_of(adapter)) < 2:
        return []
    counts = {expert: sum(name.expert == expert for name in adapter.names.values()) for expert in EXPERTS}
    return [
        f"the file holds two experts, of high noise ({counts[HIGH]} modules) and of low noise ({counts[LOW]}): "
        "expert=high or expert=low chooses one"
    ]
