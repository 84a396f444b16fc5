"""A layer's forward, gradients, update and merge are PEFT's: same configuration, same parameters, fp64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lokr_core.peft import LoKrConfig
from lokr_core.tuner import Conv1d, Conv2d, Linear

peft_layers = pytest.importorskip("peft.tuners.lokr.layer", reason="NO PEFT HERE: nothing is compared with it")
peft = pytest.importorskip("peft")

LAYERS = {
    "linear": (lambda: nn.Linear(24, 36), (2, 5, 24)),
    "linear, no bias": (lambda: nn.Linear(30, 7, bias=False), (4, 30)),
    "conv1d": (lambda: nn.Conv1d(24, 36, 3, padding=1, stride=2), (2, 24, 7)),
    "conv1d 1": (lambda: nn.Conv1d(24, 36, 1), (2, 24, 7)),
    "conv1d groups": (lambda: nn.Conv1d(24, 36, 3, groups=3), (2, 24, 7)),
    "conv2d": (lambda: nn.Conv2d(24, 36, 3, padding=1, stride=2), (2, 24, 7, 9)),
    "conv2d 1x1": (lambda: nn.Conv2d(24, 36, 1), (2, 24, 7, 9)),
    "conv2d 1x1 stride": (lambda: nn.Conv2d(24, 36, 1, stride=2), (2, 24, 7, 9)),
    "conv2d same": (lambda: nn.Conv2d(24, 36, (4, 2), padding="same", dilation=2), (2, 24, 9, 9)),
    "conv2d groups": (lambda: nn.Conv2d(24, 36, 3, groups=2, padding=1), (2, 24, 7, 9)),
    "conv2d groups across w1": (lambda: nn.Conv2d(24, 36, 3, groups=12, padding=1), (2, 24, 7, 9)),
}
PAIRS = {nn.Linear: (Linear, "Linear"), nn.Conv1d: (Conv1d, "Conv1d"), nn.Conv2d: (Conv2d, "Conv2d")}


def twins(base: nn.Module, **fields):
    """(PEFT's layer, ours) around copies of ``base``, with the same parameters."""
    kind, name = PAIRS[type(base)]
    fields = {"init_weights": False, "alpha": 3, **fields}
    numbers = {"r": fields["r"], "alpha": fields["alpha"]}
    theirs = getattr(peft_layers, name)(copy.deepcopy(base), "default", peft.LoKrConfig(**fields), **numbers)
    ours = kind(copy.deepcopy(base), "default", LoKrConfig(**fields), **numbers)
    ours.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    return theirs, ours


def run(layer: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output and gradients of a layer for a fixed gradient of its output."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(torch.linspace(0, 40, y.numel(), dtype=torch.float64).sin().view_as(y).to(y.dtype))
    gradients = {
        name: p.grad for name, p in layer.named_parameters() if p.grad is not None and "base_layer" not in name
    }
    return {"output": y.detach(), "input": x.grad, **gradients}


def assert_equal(found: dict, expected: dict, tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = float((found[name] - value).detach().norm() / value.detach().norm().clamp_min(1e-12))
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.every_pair
@pytest.mark.parametrize("effective", [False, True], ids=["", "effective"])
@pytest.mark.parametrize("factor", [-1, 4, 5])
@pytest.mark.parametrize("both", [False, True], ids=["", "both"])
@pytest.mark.parametrize("r", [1, 2, 16])
@pytest.mark.parametrize("name", LAYERS)
def test_output_gradients_update_and_merge_are_pefts(name, r, both, factor, effective):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    form = dict(r=r, decompose_both=both, decompose_factor=factor, use_effective_conv2d=effective)
    theirs, ours = twins(make().double(), **form)
    x = torch.randn(shape, dtype=torch.float64)
    try:
        expected = run(theirs, x)
    except RuntimeError as error:
        assert "view size is not compatible" in str(error) and r == 1
        pytest.skip("PEFT cannot run a Conv1d's Tucker form of rank 1 (torch.kron of its strides)")
    assert_equal(run(ours, x), expected)
    update = theirs.get_delta_weight("default")
    assert_equal({"": ours.get_delta_weight("default")}, {"": update})

    before = ours.weight.detach().clone()
    theirs.merge()
    ours.merge(safe_merge=True)
    assert ours.merged_adapters == theirs.merged_adapters
    assert_equal({"": ours.weight}, {"": theirs.weight})
    assert_equal({"": ours(x)}, {"": theirs(x)})
    ours.unmerge()
    assert torch.equal(ours.weight, before)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv1d"])
def test_rank_dropout_with_the_same_draws_is_pefts(name, scaled, frozen):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    theirs, ours = twins(make().double(), r=2, rank_dropout=0.4, rank_dropout_scale=scaled)
    for layer in (theirs, ours):
        layer.base_layer.requires_grad_(not frozen)
    x = torch.randn(shape, dtype=torch.float64)
    torch.manual_seed(5)
    torch.rand(1)  # PEFT draws for module dropout even where it is 0
    found = run(ours, x)
    torch.manual_seed(5)
    assert_equal(found, run(theirs, x))
    theirs.eval(), ours.eval()
    assert_equal(run(ours, x), run(theirs, x))


def test_module_dropout_with_the_same_draws_is_pefts():
    torch.manual_seed(0)
    theirs, ours = twins(nn.Linear(24, 36).double(), r=2, module_dropout=0.5)
    x = torch.randn(3, 24, dtype=torch.float64)
    kinds = set()
    for seed in range(12):
        results = []
        for layer in (theirs, ours):
            torch.manual_seed(seed)
            results.append(layer(x))
        assert torch.allclose(results[1], results[0], rtol=1e-9)
        kinds.add(torch.equal(results[1], ours.base_layer(x)))
    assert kinds == {True, False}


def test_dropout_leaves_out_rows_and_modules_as_often_as_asked():
    torch.manual_seed(0)
    layer = Linear(nn.Linear(8, 1000), "default", LoKrConfig(rank_dropout=0.3, init_weights=False), r=2, alpha=2)
    x = torch.randn(1, 8)
    dropped = sum(int((layer(x) == layer.base_layer(x)).sum()) for _ in range(40))
    # 40000 draws: the standard deviation is 92
    assert abs(dropped - 12000) < 500
    layer = Linear(nn.Linear(8, 4), "default", LoKrConfig(module_dropout=0.3, init_weights=False), r=2, alpha=2)
    dropped = sum(torch.equal(layer(x), layer.base_layer(x)) for _ in range(4000))
    assert abs(dropped - 1200) < 150  # standard deviation 29


@pytest.mark.parametrize("init", [True, False, "lycoris"])
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_the_starting_values_are_pefts(name, init):
    made = []
    for layers, config in ((peft_layers, peft.LoKrConfig), (None, LoKrConfig)):
        torch.manual_seed(3)
        base = LAYERS[name][0]()
        kind, peers = PAIRS[type(base)]
        kind = kind if layers is None else getattr(layers, peers)
        torch.manual_seed(4)
        made.append(kind(base, "default", config(r=2, init_weights=init, use_effective_conv2d=True), r=2, alpha=2))
    theirs, ours = (dict(layer.named_parameters()) for layer in made)
    assert ours.keys() == theirs.keys()
    for parameter in ours:
        same_kind = bool((ours[parameter] == 0).all()) == bool((theirs[parameter] == 0).all())
        assert same_kind and ours[parameter].requires_grad == theirs[parameter].requires_grad
        if "base" not in parameter:
            assert float(ours[parameter].abs().max()) == pytest.approx(float(theirs[parameter].abs().max()), rel=0.6)


def test_scales_are_pefts():
    theirs, ours = twins(nn.Linear(8, 8), r=4, alpha=6)
    for change in (
        lambda layer: layer.scale_layer(3.0),
        lambda layer: layer.unscale_layer(1.5),
        lambda layer: layer.set_scale("default", 0.25),
        lambda layer: layer.set_scale("nobody", 7),
        lambda layer: layer.scale_layer(2.0),
        lambda layer: layer.unscale_layer(),
    ):
        change(theirs), change(ours)
        assert ours.scaling == theirs.scaling


def test_several_adapters_add_up_as_pefts_do():
    torch.manual_seed(0)
    theirs, ours = twins(nn.Linear(24, 36).double(), r=2)
    for layer, config in ((theirs, peft.LoKrConfig), (ours, LoKrConfig)):
        layer.update_layer("other", r=3, alpha=5, config=config(init_weights=False, decompose_factor=4))
        layer.set_adapter(["default", "other"])
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 24, dtype=torch.float64)
    assert_equal(run(ours, x), run(theirs, x))
    theirs.merge(), ours.merge()
    assert_equal({"": ours.weight}, {"": theirs.weight})
    theirs.unmerge(), ours.unmerge()
    for layer in (theirs, ours):
        layer.delete_adapter("default")
        layer.zero_grad()
    assert ours.active_adapters == theirs.active_adapters == ["other"]
    assert_equal(run(ours, x), run(theirs, x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_with_fp32_adapters_computes_as_pefts(dtype):
    torch.manual_seed(0)
    theirs, ours = twins(nn.Linear(24, 36).to(dtype), r=2)
    for layer in (theirs, ours):
        for name, parameter in layer.named_parameters():
            parameter.data = parameter.data.float() if "lokr" in name else parameter.data
    x = torch.randn(3, 24).to(dtype)
    found, expected = run(ours, x), run(theirs, x)
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in expected.items()}
    assert_equal({k: v.float() for k, v in found.items()}, {k: v.float() for k, v in expected.items()}, 5e-3)


@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_under_autocast_it_is_as_near_to_the_exact_result_as_peft(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    theirs, ours = twins(make(), r=2)
    x = torch.randn(shape)
    exact = run(theirs, x)
    results = []
    for layer in (ours, theirs):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results.append(run(layer, x))
    found, peers = results
    assert found["output"].dtype == torch.bfloat16  # as the base's own; PEFT turns it back to the input's fp32
    assert all(value.dtype == torch.float32 for key, value in found.items() if key != "output")
    for key, value in exact.items():
        error, peer = (float((each[key].float() - value).norm() / value.norm()) for each in (found, peers))
        assert error <= 2 * peer + 2**-8, f"{key}: {error:.1e}, PEFT {peer:.1e}"  # 2**-8: a rounding to bf16


def test_circular_padding_means_the_same_live_as_merged():
    """PEFT pads the update's input with zeros whatever the layer does; the weight it merges is right."""
    torch.manual_seed(0)
    _, ours = twins(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular").double(), r=2)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    live = ours(x)
    ours.merge()
    assert torch.allclose(ours(x), live, rtol=1e-9)
