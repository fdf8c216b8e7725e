"""An inverse that is kept between calls is never stale."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from induced import InducedSpace, Linearizer
from induced.bijections import Sinh
from induced.operators import BlockDiagonal, Dense, Diagonal, Householder
from induced.operators.linalg import Inverse
from proofs_tests.registry import agree


def new(n: int) -> Tensor:
    return torch.randn(n, n) / n**0.5 / 3 + torch.eye(n)


def trained(optimiser: type[torch.optim.Optimizer], **keywords: object) -> Callable[[Dense], None]:
    def write(A: Dense) -> None:
        steps = optimiser(A.parameters(), lr=0.05, **keywords)  # type: ignore[call-arg, arg-type]
        with torch.enable_grad():
            A(torch.ones(A.shape[1])).square().sum().backward()
        steps.step()

    return write


def in_numpy(A: Dense) -> None:
    A.A.detach().numpy()[0, 0] += 0.5


def one_entry(A: Dense) -> None:
    A.A.data[-1, 0] += 0.01


WRITES: dict[str, Callable[[Dense], object]] = {
    "SGD": trained(torch.optim.SGD),
    "Adam, foreach": trained(torch.optim.Adam, foreach=True),
    "Adam, fused": trained(torch.optim.Adam, fused=True),
    "p.data = ": lambda A: setattr(A.A, "data", new(len(A.A))),
    "p.data.copy_": lambda A: A.A.data.copy_(new(len(A.A))),
    "p.data.mul_": lambda A: A.A.data.mul_(2),
    "p.data.neg_": lambda A: A.A.data.neg_(),
    "p.data of two rows": lambda A: A.A.data.copy_(A.A.data.roll(1, 0)),
    "p.data of one entry": one_entry,
    "detach().mul_": lambda A: A.A.detach().mul_(2),
    "NumPy": in_numpy,
    "vector_to_parameters": lambda A: nn.utils.vector_to_parameters(new(len(A.A)).flatten(), A.parameters()),
    "swap_tensors": lambda A: torch.utils.swap_tensors(A.A, nn.Parameter(new(len(A.A)))),
    "load_state_dict": lambda A: A.load_state_dict({"A": new(len(A.A))}),
    "load_state_dict, assigned": lambda A: A.load_state_dict({"A": new(len(A.A))}, assign=True),
    "another parameter": lambda A: setattr(A, "A", nn.Parameter(new(len(A.A)))),
    "double": lambda A: A.double(),
    "double and back": lambda A: A.double().float(),
}


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("n", [3, 90])
@pytest.mark.parametrize("name", WRITES)
def test_a_kept_inverse_is_never_stale(name: str, n: int, trains: bool) -> None:
    A, z = Dense(nn.Parameter(new(n))), torch.randn(5, n)
    B = Inverse(A)
    with torch.no_grad():
        B(z)
        A.requires_grad_(trains or "Adam" in name or "SGD" in name)
        WRITES[name](A)
        M, z = A.A.detach(), z.to(A.A.dtype)
        wanted = np.linalg.solve(M.double().numpy(), z.double().numpy().T).T
        np.testing.assert_allclose(B(z).numpy(), wanted, rtol=1e-3, atol=1e-3 if M.dtype == torch.float32 else 1e-12)
        np.testing.assert_allclose(
            B.H(B.operator(z)).numpy(), np.linalg.solve(M.T.double().numpy(), (z @ M.mT).double().numpy().T).T, atol=1e-3
        )


def test_an_inverse_is_kept_while_nothing_writes() -> None:
    for A in (Dense(new(3)), Dense(new(90)), Diagonal(torch.rand(4) + 1), BlockDiagonal(new(3), Diagonal(torch.rand(2) + 1))):
        B = Inverse(A)
        assert B.factorised() is B.factorised()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert B.factorised() is B.factorised()


@pytest.mark.parametrize("n", [3, 90])
def test_a_kept_inverse_is_used_under_transforms(n: int) -> None:
    z, A = torch.randn(5, n), Dense(new(n))
    B, wanted = Inverse(A), torch.linalg.inv(A.A.double())
    np.testing.assert_allclose(torch.func.vmap(B)(z).numpy(), z.double() @ wanted.mT, atol=1e-4)
    kept = B.factorised()
    np.testing.assert_allclose(torch.func.jacrev(B)(z[0]).numpy(), wanted, atol=1e-4)
    np.testing.assert_allclose(
        torch.func.vmap(torch.func.grad(lambda z: B(z).sum()))(z).numpy(), wanted.sum(0).expand(5, n), atol=1e-4
    )
    assert B.factorised() is kept
    stacked = torch.stack([new(n), new(n)])
    each = torch.func.vmap(lambda M: functional_call(B, {"operator.A": M}, (z,)))(stacked)
    np.testing.assert_allclose(each.numpy(), z.double() @ torch.linalg.inv(stacked.double()).mT, atol=1e-3)
    assert B.factorised() is kept


def test_the_inverse_of_another_operator_is_not_that_of_the_first() -> None:
    A, C = Householder(torch.randn(1, 3)) @ Diagonal(torch.rand(3) + 1), Diagonal(torch.rand(3) + 1)
    B = Inverse(A)
    for operator in (A, A.H, C):
        B.operator = operator
        agree(B.matrix(), torch.linalg.inv(operator.matrix()), 100)


def test_a_kept_inverse_of_a_map_follows_its_moves() -> None:
    f, x = Linearizer(nn.Parameter(new(4)), InducedSpace(Sinh((4,)))), torch.randn(3, 4) / 2
    inverse = f.inv
    with torch.no_grad():
        agree(inverse(f(x)), x, 1000)
        f.double()
        agree(inverse(f(x.double())), x.double(), 1000)
