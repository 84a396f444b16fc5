"""Half precision: what each way keeps of a small update, and how far its output is from fp64's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrWeights, attach
from lokr_core.live import FACTORED, THROUGH, forced
from tests.norms import relative

WIDTH, POSITIONS = 512, 64
SIZES = [0.001, 0.003, 0.01, 0.1]
"""‖s ΔW‖ / ‖W‖"""


class Case:
    """A Linear in ``dtype``, an update of ``size``, and the outputs that exact arithmetic gives for both."""

    def __init__(self, dtype: torch.dtype, size: float, dora: bool):
        torch.manual_seed(0)
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False).to(dtype).requires_grad_(False)
        self.x = torch.randn(POSITIONS, WIDTH).to(dtype)
        weight = self.layer.weight.double()
        w1, w2 = torch.randn(8, 8), torch.randn(WIDTH // 8, WIDTH // 8)
        delta = torch.kron(w1, w2).double()
        delta *= size * weight.norm() / delta.norm()
        w1 *= float(size * weight.norm() / torch.kron(w1, w2).norm())
        # dora_scale: the base's own norms, so that the change stays of the update's size
        scale = weight.norm(dim=1, keepdim=True).float() if dora else None
        new = weight + delta
        if scale is not None:
            new *= scale.double() / new.norm(dim=1, keepdim=True)
        self.adapter = Adapter({"0": LoKrWeights(Factor(w1), Factor(w2), dora_scale=scale)})
        self.exact = self.x.double() @ new.T
        self.change = self.exact - self.x.double() @ weight.T
        self.rounded = (self.layer(self.x).float() + self.change.float()).to(dtype)

    def live(self, way: str) -> torch.Tensor:
        with attach(nn.Sequential(self.layer), self.adapter) as handle, torch.no_grad(), forced(way):
            found = self.layer(self.x)
            assert [layer.way for layer in handle.plan()] == [way]
        return found.double()


@pytest.mark.parametrize("way", [FACTORED, THROUGH])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_further_from_fp64_than_the_exact_update_added_in_fp32_and_rounded(dtype, size, dora, way):
    case = Case(dtype, size, dora)
    assert relative(case.live(way), case.exact) <= 1.03 * relative(case.rounded.double(), case.exact)


@pytest.mark.parametrize("way", [FACTORED, THROUGH])
@pytest.mark.parametrize("size,kept", [(0.001, 0.5), (0.003, 0.9), (0.01, 0.99), (0.1, 0.999)])
def test_what_is_kept_of_an_update_in_bf16(size, kept, way):
    """The part of the update that arrives at the output: of the smallest, bf16 keeps about half, either way."""
    case = Case(torch.bfloat16, size, dora=False)
    base = case.layer(case.x).double()
    arrived = float(((case.live(way) - base) * case.change).sum() / (case.change**2).sum())
    assert kept <= arrived + 0.01
    assert arrived <= 1.1
