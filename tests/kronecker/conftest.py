"""Random factors, and what they and their product are by definition, in fp64."""

from __future__ import annotations

import pytest
import torch

from lokr_core import Factor


def _make_factor(form: str, rows: int, cols: int, kernel=(), rank: int = 2, dtype=torch.float64) -> Factor:
    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64).to(dtype)

    if form == "whole":
        return Factor(whole=randn(rows, cols, *kernel))
    if form == "low-rank":
        return Factor(a=randn(rows, rank), b=randn(rank, cols, *kernel))
    if form == "tucker":
        return Factor(t=randn(rank, rank, *kernel), a=randn(rank, rows), b=randn(rank, cols))
    raise ValueError(form)


def _whole(factor: Factor) -> torch.Tensor:
    stored = {name: tensor.double() for name, tensor in factor.tensors.items()}
    if "whole" in stored:
        return stored["whole"]
    if "t" in stored:
        return torch.einsum("ijx,ip,jq->pqx", stored["t"].flatten(2), stored["a"], stored["b"]).reshape(factor.shape)
    return torch.einsum("pr,rqx->pqx", stored["a"], stored["b"].flatten(1).unsqueeze(2)).reshape(factor.shape)


def _product(w1: Factor, w2: Factor) -> torch.Tensor:
    (l, m), (k, n, *kernel) = w1.shape, w2.shape
    blocks = torch.einsum("lm,knx->lkmnx", _whole(w1), _whole(w2).reshape(k, n, -1))
    return blocks.reshape(l * k, m * n, *kernel)


@pytest.fixture(scope="session")
def make_factor():
    """(form, rows, cols, kernel, rank, dtype) -> a random Factor; form is "whole", "low-rank" or "tucker"."""
    return _make_factor


@pytest.fixture(scope="session")
def product():
    """(w1, w2) -> w1 ⊗ w2 in fp64, out of the definitions alone."""
    return _product
