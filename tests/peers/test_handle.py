"""What ``speed_up`` leaves as it was: parameters, switches, merging, copies; and what ``remove`` gives back."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from lokr_core import LoKrConfig, LoKrMatchError, get_lokr_model, speed_up
from tests.peers import lookalikes
from tests.peers.peer_nets import Trained, base, lycoris, peft, with_lycoris, with_peft


def with_kohya(model: nn.Module) -> Trained:
    layers = lookalikes.network(model, lookalikes.Kohya)
    return Trained(model, layers, list(layers.parameters()))


MAKERS = {"peft": with_peft, "lycoris": with_lycoris, "kohya": with_kohya}


def trained(family: str, name: str = "unet") -> tuple[Trained, torch.Tensor]:
    """A model whose factors are all random, and its input."""
    model, x = base(name)
    made = MAKERS[family](model)
    torch.manual_seed(3)
    for parameter in made.parameters:
        nn.init.normal_(parameter, std=0.3)
    return made, x


def attributes(made: Trained) -> dict[tuple[str, str], object]:
    """Every attribute of every module of the model and of the network, by identity."""
    modules = {**dict(made.call.named_modules()), **{"+" + n: m for n, m in made.holder.named_modules()}}
    return {(name, key): value for name, module in modules.items() for key, value in vars(module).items()}


@pytest.mark.parametrize("family", MAKERS)
def test_remove_gives_back_every_attribute_as_it_was(family):
    made, x = trained(family)
    before, classes, plain = attributes(made), [type(m) for m in made.call.modules()], made.call(x)
    with speed_up(made.holder) as handle:
        assert attributes(made).keys() != before.keys() and torch.allclose(made.call(x), plain, atol=1e-4)
        assert {key: value for key, value in attributes(made).items() if key[1] == "_parameters"} == {
            key: value for key, value in before.items() if key[1] == "_parameters"
        }
    after = attributes(made)
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)
    assert [type(m) for m in made.call.modules()] == classes and torch.equal(made.call(x), plain)
    handle.remove()


@pytest.mark.parametrize("family", MAKERS)
def test_the_state_dict_and_the_parameters_are_the_layers_own(family):
    made, x = trained(family)
    state, parameters = made.holder.state_dict(), list(made.holder.parameters())
    speed_up(made.holder)
    assert made.holder.state_dict().keys() == state.keys()
    assert all(one is other for one, other in zip(made.holder.parameters(), parameters, strict=True))
    before = made.call(x)
    zeros = {key: torch.zeros_like(value) if "lokr" in key else value for key, value in state.items()}
    made.holder.load_state_dict(zeros)
    assert not torch.allclose(made.call(x), before)


@pytest.mark.parametrize("how", [copy.deepcopy, "pickle"], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("family", MAKERS)
def test_a_copy_computes_from_its_own_parameters(family, how):
    made, x = trained(family)
    speed_up(made.holder)
    expected = made.call(x)
    if how == "pickle":
        torch.save(made, file := io.BytesIO())
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    else:
        copied = how(made)
    assert torch.allclose(copied.call(x), expected)
    for parameter in copied.holder.parameters():
        if parameter.requires_grad:
            nn.init.zeros_(parameter)
    assert torch.equal(made.call(x), expected) and not torch.allclose(copied.call(x), expected)
    handle = speed_up(copied.holder)  # it takes over what the copy brought
    assert len(handle.report.sped_up) == 6 and not handle.report.left
    handle.remove()
    assert not any("forward" in vars(layer) for layer in copied.holder.modules() if hasattr(layer, "lokr_w1"))


def test_pefts_switches_act():
    made, x = trained("peft")
    plain, adapted = base("unet")[0](x), made.call(x)
    made.call.add_adapter("other", peft.LoKrConfig(r=2, alpha=2, init_weights=False, target_modules=["enter", "up"]))
    speed_up(made.call)
    assert torch.allclose(made.call(x), adapted, atol=1e-5)
    with made.call.disable_adapter():
        assert torch.equal(made.call(x), plain)
    made.call.base_model.set_adapter(["default", "other"])
    both = made.call(x)
    made.call.merge_adapter()
    assert torch.allclose(made.call(x), both, atol=1e-4)
    made.call.unmerge_adapter()
    made.call.delete_adapter("default")
    other = made.call(x)
    assert not torch.allclose(other, both) and not torch.allclose(other, plain)
    assert torch.allclose(made.call.merge_and_unload()(x), other, atol=1e-4)


def test_an_adapter_added_later_is_computed_and_its_layers_are_sped_up_by_a_second_call():
    made, x = trained("peft")
    first = speed_up(made.call)
    made.call.add_adapter("wide", peft.LoKrConfig(r=64, alpha=3, init_weights=False, target_modules=["enter", "time"]))
    made.call.base_model.set_adapter(["default", "wide"])
    found = made.call(x)
    first.remove()
    assert torch.allclose(made.call(x), found, atol=1e-5)


@pytest.mark.parametrize("order", ["first", "last"])
def test_two_networks_on_one_model_add_up(order):
    model, x = base("unet")
    one, other = with_lycoris(model), with_lycoris(model)
    for parameter in [*one.parameters, *other.parameters]:
        nn.init.normal_(parameter, std=0.2)
    plain = model(x)
    handle = speed_up(one.holder if order == "first" else other.holder)
    assert len(handle.report.sped_up) == 6 and torch.allclose(model(x), plain, atol=1e-4)
    both = speed_up(model)
    assert len(both.report.sped_up) == 12 and torch.allclose(model(x), plain, atol=1e-4)
    one.holder.restore()
    alone = model(x)
    both.remove()
    assert torch.allclose(model(x), alone, atol=1e-4) and not torch.allclose(alone, plain, atol=1e-4)


def test_lycoris_own_switches_act_before_and_after():
    model, x = base("unet")
    plain = model(x)
    torch.manual_seed(1)
    network = lycoris.create_lycoris(model, linear_dim=4, algo="lokr")
    handle = speed_up(network)  # not applied yet
    network.apply_to()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    found = model(x)
    handle.remove()
    assert torch.allclose(model(x), found, atol=1e-4) and not torch.allclose(found, plain)
    speed_up(network)
    network.set_multiplier(0)
    assert torch.allclose(model(x), plain, atol=1e-6)
    network.set_multiplier(1)
    network.restore()
    assert torch.equal(model(x), plain)
    network.merge_to()
    assert torch.allclose(model(x), found, atol=1e-3)


def test_what_cannot_be_sped_up_is_told_and_stays():
    made, x = trained("lycoris", "mlp")
    grouped = nn.Conv2d(8, 8, 3, groups=2)
    layer = lycoris.LokrModule("g", grouped, bypass_mode=True, lora_dim=1)  # which LyCORIS cannot run
    replaced = made.holder.loras[0]
    replaced.forward = lambda x: x
    made.holder.add_module("g", layer)
    layer.apply_to()
    report = speed_up(made.holder).report
    assert len(report.sped_up) == 2 and sorted(report.left.values()) == [
        "its forward is another function already, such as a parametrisation's or accelerate's",
        "its own forward raises RuntimeError",
    ]


def test_a_model_without_such_layers_raises_and_this_librarys_own_are_left_out():
    for model in (base("mlp")[0], get_lokr_model(base("mlp")[0], LoKrConfig(target_modules=["0"]))):
        with pytest.raises(LoKrMatchError, match="no LoKr layer to speed up"):
            speed_up(model)
