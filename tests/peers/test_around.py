"""Sped-up layers under autocast, gradient checkpointing, the compiler, DDP and hooks compute what plain ones do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from lokr_core import speed_up
from tests.peers.peer_nets import Trained, base, with_lycoris, with_peft
from tests.peers.test_handle import MAKERS, trained


def gradients(made: Trained, run, x: torch.Tensor) -> list[torch.Tensor]:
    """The output and every gradient, of the input too, from fixed random numbers."""
    torch.manual_seed(4)
    x = x.clone().requires_grad_()
    y = run(x)
    y.float().square().mean().backward()
    found = [y.detach(), x.grad, *[torch.zeros_like(p) if p.grad is None else p.grad for p in made.parameters]]
    for parameter in made.parameters:
        parameter.grad = None
    return found


def assert_close(found: list, expected: list, tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).float().norm()) <= tolerance * float(other.float().norm()) + 1e-9


@pytest.mark.parametrize("family", MAKERS)
def test_autocast(family):
    made, x = trained(family)

    def run(x):
        with torch.autocast("cpu", torch.bfloat16):
            return made.call(x)

    exact, plain = gradients(made, made.call, x), gradients(made, run, x)
    speed_up(made.holder)
    found = gradients(made, run, x)
    assert found[0].dtype == plain[0].dtype
    for one, other, expected in zip(found, plain, exact, strict=True):
        error, theirs = (float((value - expected).float().norm()) for value in (one, other))
        assert error <= 1.5 * theirs + 1e-2 * float(expected.norm())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("make", [with_peft, with_lycoris])
def test_gradient_checkpointing_with_dropout(make, reentrant):
    model, x = base("unet")
    made = make(model, rank_dropout=0.3, module_dropout=0.2)
    for parameter in made.parameters:
        nn.init.normal_(parameter, std=0.2)
    run = lambda x: checkpoint(made.call, x, use_reentrant=reentrant)  # noqa: E731
    expected = gradients(made, run, x)
    speed_up(made.holder)
    assert_close(gradients(made, run, x), expected, 1e-4)


@pytest.mark.parametrize("family", MAKERS)
def test_the_compiler(family):
    made, x = trained(family)
    expected = gradients(made, made.call, x)
    handle = speed_up(made.holder)
    torch.compiler.reset()
    compiled = torch.compile(made.call, backend="aot_eager", fullgraph=True)
    assert_close(gradients(made, compiled, x), expected, 1e-4)
    handle.remove()


@pytest.mark.parametrize("make", [with_peft, with_lycoris])
def test_the_compiler_draws_dropout(make):
    model, x = base("mlp")
    made = make(model, rank_dropout=0.3, module_dropout=0.5)
    for parameter in made.parameters:
        nn.init.normal_(parameter, std=0.2)
    speed_up(made.holder)
    torch.compiler.reset()
    compiled = torch.compile(made.call, backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    drawn = torch.stack([compiled(x).detach() for _ in range(8)])
    assert len(torch.unique(drawn.sum((1, 2)))) > 2


@pytest.mark.parametrize("family", MAKERS)
def test_ddp(family, tmp_path):
    made, x = trained(family, "mlp")
    expected = gradients(made, made.call, x)
    speed_up(made.holder)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(made.holder if made.holder is made.call else Both(made))
        assert_close(gradients(made, wrapped, x), expected, 1e-4)
    finally:
        torch.distributed.destroy_process_group()


class Both(nn.Module):
    """A model and its network as one module, as trainers wrap them."""

    def __init__(self, made: Trained):
        super().__init__()
        self.model, self.network = made.call, made.holder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


@pytest.mark.parametrize("family", MAKERS)
def test_hooks_of_the_layers_are_called_and_see_the_outputs(family):
    made, x = trained(family, "mlp")
    seen: list[torch.Tensor] = []
    layers = [module for module in made.call.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(output))
    expected = made.call(x)
    plain, seen[:] = [output.clone() for output in seen], []
    speed_up(made.holder)
    assert torch.allclose(made.call(x), expected, atol=1e-4)
    for one, other in zip(seen, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_frozen_model_in_half_precision_is_no_further_from_exact_than_the_plain_way():
    for make in (with_peft, with_lycoris):
        model, x = base("mlp")
        made = make(model)
        for parameter in made.parameters:
            nn.init.normal_(parameter, std=0.2)
        exact = made.call(x).detach()
        for module in made.call.modules():
            if isinstance(module, nn.Linear):
                module.bfloat16()
        x = x.bfloat16()
        theirs = float((made.call(x).float() - exact).norm())
        speed_up(made.holder)
        assert float((made.call(x).float() - exact).norm()) <= 1.2 * theirs
