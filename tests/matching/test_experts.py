"""One file for two models: the experts of high and of low noise. Each choice gives its own weights and no other's."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lokr_core import (
    LoKrFileError,
    LoKrMatchError,
    LoKrValueError,
    Target,
    attach,
    load_adapter,
    merge_adapter,
    resolve,
)
from lokr_core.formats import parse_adapter
from lokr_core.tools import apply_to_file, check_file
from tests.matching.cells import recorded

# How the two are called: (name of the high noise expert's module, of the low noise expert's), each with its weight's.
SPELLINGS = {
    "ai-toolkit": ("diffusion_model.transformer_1.{}", "diffusion_model.transformer_2.{}"),
    "ai-toolkit, flattened": ("lycoris_transformer_1_{}", "lycoris_transformer_2_{}"),
    "kohya": ("lora_unet_transformer_1_{}", "lora_unet_transformer_2_{}"),
    "diffusers": ("transformer.{}", "transformer_2.{}"),
    "PEFT in a pipeline": ("transformer.base_model.model.{}", "transformer_2.base_model.model.{}"),
    "Wan's authors": ("high_noise_model.{}", "low_noise_model.{}"),
    "plain": ("transformer_1.{}", "transformer_2.{}"),
    "DiffSynth": ("pipe.dit.{}", "pipe.dit2.{}"),
    "a wrapper before them": ("core.transformer_1.{}", "core.transformer_2.{}"),
    "a wrapper before them, flattened": ("lycoris_core_transformer_1_{}", "lycoris_core_transformer_2_{}"),
    "a wrapper before diffusers'": (
        "base_model.model.wrapped.transformer.{}",
        "base_model.model.wrapped.transformer_2.{}",
    ),
}
BLOCK = {n: s for n, s in recorded("wan_t2v")[1].items() if n.startswith("blocks.0.") and len(s) == 2}
EXPERTS = ("high", "low")


def weights(prefix: str = "diffusion_model.") -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": torch.zeros(shape) for name, shape in BLOCK_AND_REST.items()}


BLOCK_AND_REST = {name: shape for name, shape in recorded("wan_t2v")[1].items() if len(shape) == 2}
REST = {"text_encoder.encoder.block.0.layer.0.SelfAttention.q": (8, 8)}


def tensors(spelling: str, experts=EXPERTS) -> dict[str, torch.Tensor]:
    """A LoKr of ones for each module of the high noise expert, of twos for the low noise expert's."""
    found = {}
    for number, (expert, form) in enumerate(zip(EXPERTS, SPELLINGS[spelling], strict=True)):
        for name, shape in BLOCK.items() if expert in experts else ():
            module = name.removesuffix(".weight")
            full = form.format(module.replace(".", "_") if form.startswith("l") and "_{}" in form else module)
            found |= {f"{full}.lokr_w1": torch.ones(1, 1), f"{full}.lokr_w2": torch.full(shape, number + 1.0)}
            found[f"{full}.alpha"] = torch.tensor(1.0)
    return found


@pytest.fixture(params=SPELLINGS)
def path(request, tmp_path):
    save_file(tensors(request.param), str(tmp_path / "both.safetensors"))
    return tmp_path / "both.safetensors"


def is_expert(changed: dict[str, torch.Tensor], expert: str, prefix: str = "diffusion_model.") -> bool:
    value = 1.0 + EXPERTS.index(expert)
    return all((t == (value if n.removeprefix(prefix) in BLOCK else 0)).all() for n, t in changed.items())


@pytest.mark.parametrize("expert", EXPERTS)
def test_a_choice_gives_its_own_weights_and_leaves_the_other_half_alone(path, expert):
    adapter = load_adapter(path, expert=expert)
    assert len(adapter) == len(BLOCK) and adapter.experts == [expert]
    model = weights()
    with merge_adapter(model, adapter) as handle:
        assert is_expert(model, expert) and handle.report.complete
        assert f"the {expert} noise expert is used" in handle.report.text()
    with merge_adapter(model, load_adapter(path), expert=expert) as handle:
        assert is_expert(model, expert) and len(handle.report.applied) == len(BLOCK)


def test_without_a_choice_the_refusal_says_two_experts(path):
    adapter = load_adapter(path)
    assert adapter.experts == list(EXPERTS) and "two experts" in adapter.notes[-1]
    with pytest.raises(LoKrMatchError, match="two experts") as caught:
        merge_adapter(weights(), adapter)
    assert "expert=high" in str(caught.value) and "base model" not in str(caught.value)


@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize("name", ["wan2.2_t2v_{}_noise_14B_fp16", "Wan2_2-T2V-A14B-{}_fp8", "{}_noise_model/model"])
def test_the_models_file_tells(path, tmp_path, expert, name):
    file = tmp_path / f"{name.format(expert)}.safetensors"
    file.parent.mkdir(exist_ok=True)
    save_file(weights(), str(file))
    report = check_file(file, path)
    assert report.complete and len(report.applied) == len(BLOCK) and "the model's name tells" in report.text()
    apply_to_file(file, path, tmp_path / "out.safetensors")
    from_file = load_adapter(path, expert)
    model = weights()
    merge_adapter(model, from_file)
    assert is_expert(model, expert)
    assert check_file(file, path, "low").complete  # a choice counts more than a name


@pytest.mark.parametrize("prefixes", [("transformer.", "transformer_2."), ("high_noise_model.", "low_noise_model.")])
def test_a_model_of_both_takes_each_where_it_belongs(path, prefixes):
    model = {**weights(prefixes[0]), **weights(prefixes[1])}
    with merge_adapter(model, load_adapter(path)) as handle:
        assert len(handle.report.applied) == 2 * len(BLOCK)
        for expert, prefix in zip(EXPERTS, prefixes, strict=True):
            assert is_expert({n: t for n, t in model.items() if n.startswith(prefix)}, expert, prefix)


def test_a_pipelines_attribute_tells():
    class Config:
        _name_or_path = "models/Wan2.2-T2V-A14B-Diffusers/transformer_2"

    model = torch.nn.Module()
    for name, (out, columns) in BLOCK_AND_REST.items():
        parent, *words = model, *name.split(".")[:-1]
        for word in words[:-1]:
            if not hasattr(parent, word):
                parent.add_module(word, torch.nn.Module())
            parent = getattr(parent, word)
        parent.add_module(words[-1], torch.nn.Linear(columns, out, bias=False))
    model.config = Config()
    adapter = parse_adapter(tensors("diffusers"))
    assert len(attach(model, adapter).report.applied) == len(BLOCK)
    model.config = None
    with pytest.raises(LoKrMatchError, match="two experts"):
        attach(model, adapter)
    assert len(attach(model, adapter, expert="high").report.applied) == len(BLOCK)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_file_of_one_expert_needs_no_choice(spelling):
    for expert in EXPERTS:
        adapter = parse_adapter(tensors(spelling, (expert,)))
        model = weights()
        merge_adapter(model, adapter)
        assert is_expert(model, expert)
    low = parse_adapter(tensors(spelling, ("low",)))
    report = resolve(low, Target({n: tuple(t.shape) for n, t in weights().items()}, source="wan_high_noise"))[1]
    assert report.complete and "the file is for the low noise expert" in report.text()
    with pytest.raises(LoKrValueError, match="nothing for the high noise expert"):
        parse_adapter(tensors(spelling, ("low",)), expert="high")


def test_other_files_are_as_they_were():
    file = {name: t for name, t in tensors("diffusers").items() if name.startswith("transformer.")}
    plain = parse_adapter(file)
    assert plain.experts == [] and not plain.notes
    chosen = parse_adapter(file, expert="low")
    assert list(chosen) == list(plain) and "no effect" in chosen.notes[-1]
    with pytest.raises(LoKrValueError, match="Unknown expert"):
        parse_adapter(file, expert="middle")


def test_experts_of_the_same_numbers_need_no_choice():
    file = tensors("diffusers", ("high",))
    adapter = parse_adapter({**file, **{f"transformer_2.{n.removeprefix('transformer.')}": t for n, t in file.items()}})
    assert len(adapter) == len(BLOCK) and adapter.experts == []
    assert "in the file twice with the same numbers" in adapter.notes[-1]


def test_one_module_twice_is_still_an_error():
    file = tensors("diffusers", ("high",))
    other = {f"diffusion_model.{n.removeprefix('transformer.')}": t * 2 for n, t in file.items()}
    with pytest.raises(LoKrFileError, match="twice"):
        parse_adapter({**file, **other})


def test_a_text_encoder_beside_the_experts_is_used_either_way():
    file = tensors("diffusers")
    for name, shape in REST.items():
        file |= {f"{name}.lokr_w1": torch.ones(1, 1), f"{name}.lokr_w2": torch.ones(shape)}
    for expert in EXPERTS:
        assert set(REST) < set(parse_adapter(file, expert=expert))


def test_a_users_own_modules_of_these_names_are_theirs():
    shapes = {f"transformer_{n}.proj.weight": (4, 4) for n in (1, 2)}
    file = {f"base_model.model.transformer_{n}.proj.lokr_w{w}": torch.ones(2, 2) for n in (1, 2) for w in (1, 2)}
    matches, report = resolve(parse_adapter(file), Target(shapes))
    assert report.complete and sorted(match.weight for match in matches) == sorted(shapes)
