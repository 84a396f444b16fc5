"""Files for a model of two experts, of high and of low noise (Wan 2.2): which modules are whose.

Both experts have the same names and shapes, so a file tells them apart by the name of the model that they were in.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import PurePath

from ..errors import LoKrValueError
from ._name import ModuleName
from ._prefixes import INNER_WRAPPERS, WRAPPERS

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
# A wrapper of the trainer's own before an expert's word; a dotted one also before the word of a first expert.
_BEHIND = re.compile(rf"((?:[A-Za-z]\w*?[._])+?)({_ANY}|(?:transformer|pipe\.dit)(?=\.))[._](?=\D)")
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
    return found | _behind_wrappers(found)


def _behind_wrappers(names: Mapping[str, ModuleName]) -> dict[str, ModuleName]:
    """Those of ``names`` that have an expert's word behind a wrapper's, if all that begin with the wrapper's have one:
    ``core.transformer_1.…``."""
    groups: dict[str, dict[str, re.Match[str]]] = defaultdict(dict)
    for module, name in names.items():
        if not name.expert and (match := _BEHIND.match(name.path)):
            groups[match.group(1)][module] = match
    found: dict[str, ModuleName] = {}
    for wrapper, matches in groups.items():
        firsts = {first: HIGH for first, second in _FIRST if any(m.group(2) == second for m in matches.values())}
        experts = {module: {**firsts, **_EXPERT_OF}.get(m.group(2), "") for module, m in matches.items()}
        if all(experts.get(module) for module, name in names.items() if name.path.startswith(wrapper)):
            for module, match in matches.items():
                path = names[module].path[match.end() :]
                found[module] = replace(names[module], path=path, component="unet", expert=experts[module])
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


def experts_among(names: Iterable[ModuleName]) -> list[str]:
    """The experts that modules of these names are of: "high", "low", both or neither."""
    found = {name.expert for name in names}
    return [expert for expert in EXPERTS if expert in found]


def check_held(expert: str, found: Sequence[str], file: str | PathLike | None) -> None:
    """Raises LoKrValueError if a file that is for the experts ``found`` is not for ``expert``."""
    if expert not in found:
        raise LoKrValueError(
            f"The file holds nothing for the {expert} noise expert",
            file=file,
            expected=f"modules of the {expert} noise expert",
            found=f"modules of the {found[0]} noise expert alone",
            hint=f"choose expert={found[0]}, or load the file for the other expert",
        )


def two_experts(names: Iterable[ModuleName]) -> str:
    """The note on a file that holds both experts. ``names``: of its LoKr modules."""
    counts = Counter(name.expert for name in names)
    return (
        f"the file holds two experts, of high noise ({counts[HIGH]} modules) and of low noise ({counts[LOW]}): "
        "expert=high or expert=low chooses one"
    )
