"""``accumulate_kron_`` adds to a tensor what ``apply_kron`` gives, in one part or in many, and to nothing else."""

from __future__ import annotations

import pytest
import torch

from lokr_core import Factor
from lokr_core.kronecker import PlannedLinear, _chain, _steps, accumulate_kron_, apply_kron, linear_plan
from lokr_core.kronecker._steps import Cols, FromRanks, Rows, ToRanks

FORMS1 = {"whole": ("whole", 2), "low-rank": ("low-rank", 2)}
FORMS2 = {"whole": ("whole", 2), "rank 1": ("low-rank", 1), "rank 3": ("low-rank", 3), "rank 9": ("low-rank", 9)}


@pytest.fixture(params=["one part", "many parts"])
def budgets(request, monkeypatch):
    plans = _chain._linear_plan, _chain._conv_plan
    if request.param == "many parts":
        for file, name in ((_chain, "LINEAR_CHUNK"), (_chain, "CONV_CHUNK"), (_steps, "FEW_ROWS")):
            monkeypatch.setattr(file, name, 100)
    for made in plans:
        made.cache_clear()
    yield
    for made in plans:
        made.cache_clear()


@pytest.mark.usefixtures("budgets")
@pytest.mark.every_pair
@pytest.mark.parametrize("form1", FORMS1)
@pytest.mark.parametrize("form2", FORMS2)
@pytest.mark.parametrize("lead", [(7,), (2, 3), (0,)])
@pytest.mark.parametrize("where", ["whole", "slice"])
def test_linear(make_factor, form1, form2, lead, where):
    torch.manual_seed(0)
    (kind1, rank1), (kind2, rank2) = FORMS1[form1], FORMS2[form2]
    w1, w2 = make_factor(kind1, 12, 8, rank=rank1), make_factor(kind2, 20, 24, rank=rank2)
    x = torch.randn(*lead, 8 * 24).double()
    all_of_it = torch.randn(*lead, 12 * 20 + (10 if where == "slice" else 0)).double()
    before = all_of_it.clone()
    y = all_of_it[..., 3 : 3 + 12 * 20] if where == "slice" else all_of_it
    expected = y + apply_kron(x, w1, w2, 0.3)
    assert accumulate_kron_(y, x, w1, w2, 0.3) is y
    assert torch.allclose(y, expected)
    if where == "slice":
        assert torch.equal(all_of_it[..., :3], before[..., :3]) and torch.equal(all_of_it[..., 243:], before[..., 243:])


@pytest.mark.usefixtures("budgets")
@pytest.mark.every_pair
@pytest.mark.parametrize("form1", FORMS1)
@pytest.mark.parametrize("form2", [*FORMS2, "tucker"])
@pytest.mark.parametrize("where", ["whole", "slice"])
def test_convolution(make_factor, form1, form2, where):
    torch.manual_seed(0)
    (kind1, rank1), (kind2, rank2) = FORMS1[form1], FORMS2.get(form2, ("tucker", 2))
    w1, w2 = make_factor(kind1, 4, 3, rank=rank1), make_factor(kind2, 6, 5, (3, 3), rank=rank2)
    x = torch.randn(2, 15, 6, 7).double()
    all_of_it = torch.randn(2, 24 + (3 if where == "slice" else 0), 3, 7).double()
    before = all_of_it.clone()
    y = all_of_it[:, 1:25] if where == "slice" else all_of_it
    how = {"stride": (2, 1), "padding": 1}
    expected = y + apply_kron(x, w1, w2, 0.3, **how)
    assert accumulate_kron_(y, x, w1, w2, 0.3, **how) is y
    assert torch.allclose(y, expected)
    if where == "slice":
        assert torch.equal(all_of_it[:, :1], before[:, :1]) and torch.equal(all_of_it[:, 25:], before[:, 25:])


def kinds(w1: Factor, w2: Factor) -> list[type]:
    plan = linear_plan([matrix.shape for matrix in w1.matrices], [matrix.shape for matrix in w2.matrices])
    return [type(step) for step in plan.steps]


def test_few_ranks_go_in_front_where_w1_acts_between_them(make_factor):
    square = make_factor("whole", 16, 16)
    assert kinds(square, make_factor("low-rank", 32, 32, rank=8)) == [ToRanks, Cols, FromRanks]
    assert kinds(square, make_factor("low-rank", 32, 32, rank=9)) == [Cols, Rows, Cols]
    assert kinds(square, make_factor("whole", 32, 32)) == [Cols, Rows]
    wide = make_factor("whole", 64, 1)
    assert kinds(wide, make_factor("low-rank", 8, 32, rank=8)) == [Cols, Cols, Rows]


def test_the_old_name_of_a_planned_linear_still_works():
    with pytest.warns(DeprecationWarning, match="PlannedLinear"):
        from lokr_core.kronecker import LinearSum
    assert LinearSum is PlannedLinear
