"""Convolutions and circulants: the adjoint for every padding, and the algebra of the circular ones in the Fourier domain."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from induced.operators import (
    BlockCirculant,
    Convolution,
    Dense,
    Diagonal,
    LinearOperator,
    exp,
    identity,
    inverse,
    log,
    pinv,
    power,
    resolvent,
    sqrt,
    svd,
)
from induced.operators.convolution import Mode
from induced.operators.invariants import cond, rank, slogdet, trace
from proofs_tests.laws.tensors import double, tensor
from proofs_tests.registry import Pads, agree, convolution_matrix


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pads", [[(0, 0), (0, 0)], [(1, 1), (1, 1)], [(0, 1), (1, 1)], [(2, 0), (1, 3)]], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_and_its_adjoint_are_exact_for_every_padding(mode: Mode, stride: int, pads: Pads, groups: int) -> None:
    shape, kernel = (2, 4, 5), double(4, 2 // groups, 2, 3)
    A = Convolution(kernel, shape, padding=pads, mode=mode, stride=stride, groups=groups)
    M = convolution_matrix(kernel, shape, pads, mode, stride, groups)
    agree(A.matrix(), M)
    agree(A.H.matrix(), M.mT)
    cyclic = mode == "circular" and stride == 1 and A.out_shape[1:] == shape[1:]
    assert (A.circulant() is not None) == cyclic
    if (C := A.circulant()) is not None:
        agree(C.matrix(), M)
        agree(C.H.matrix(), M.mT)
        agree(C.H.matrix(), M.mT)


def test_the_law_of_the_adjoint_rejects_the_flipped_kernel_under_reflect_padding() -> None:
    kernel = double(1, 1, 3)
    modes: dict[Mode, bool] = {"zeros": True, "circular": True, "reflect": False, "replicate": False}
    for mode, exact in modes.items():
        A, flipped = (Convolution(K, (1, 5), mode=mode) for K in (kernel, kernel.flip(-1)))
        if exact:
            agree(flipped.matrix(), A.H.matrix())
        else:
            with pytest.raises(AssertionError, match="rounding explains"):
                agree(flipped.matrix(), A.H.matrix())


def test_a_convolution_says_its_geometry() -> None:
    assert repr(Convolution(double(2, 1, 3), (1, 5))) == (
        "Convolution((1, 5) -> (2, 5), kernel=(2, 1, 3), padding=((1, 1),) zeros)"
    )


@pytest.mark.parametrize("k", range(1, 6))
def test_same_padding_keeps_the_size_of_odd_and_even_kernels(k: int) -> None:
    for mode in ("zeros", "circular"):
        A = Convolution(double(1, 1, k), (1, 6), mode=mode)
        assert A.out_shape == (1, 6) and A.pads == (((k - 1) // 2, k // 2),)
    assert Convolution(double(1, 1, k), (1, 6), stride=2).out_shape == (1, 3)
    assert Convolution(double(1, 1, k), (1, 6), padding=2).pads == ((2, 2),)


def test_a_circular_kernel_may_be_longer_than_the_grid() -> None:
    A = Convolution(kernel := double(1, 1, 8), (1, 3), mode="circular")
    circulant = A.circulant()
    assert circulant is not None
    agree(circulant.matrix(), convolution_matrix(kernel, (1, 3), [(3, 4)], "circular"))


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_a_batch_of_kernels_meets_the_batch_of_coordinates(mode: Mode) -> None:
    kernels, z, w = double(3, 2, 1, 3, 2), double(5, 3, 2 * 12), double(5, 3, 2 * 12)
    A = Convolution(kernels, (2, 4, 3), mode=mode, groups=2)
    each = [Convolution(K, (2, 4, 3), mode=mode, groups=2) for K in kernels]
    agree(A(z), torch.stack([B(z[:, i]) for i, B in enumerate(each)], 1))
    agree(A.H(w), torch.stack([B.H(w[:, i]) for i, B in enumerate(each)], 1))
    agree(A(z[0, 0]), torch.stack([B(z[0, 0]) for B in each]))
    agree(A.matrix(), torch.stack([B.matrix() for B in each]))
    weights = double(3)
    agree((A * weights).matrix(), torch.stack([a * B.matrix() for a, B in zip(weights, each, strict=True)]))
    if (C := A.circulant()) is not None:
        agree(C(z), A(z))
        agree(C(z[0, 0]), A(z[0, 0]))
        agree((C * weights).matrix(), (A * weights).matrix())
        agree(inverse(C)(A(z)), z, float(cond(C).max()))
        agree(exp(C, weights).matrix(), torch.linalg.matrix_exp(weights[:, None, None] * A.matrix()), 100)
        agree(trace(C), torch.stack([trace(B) for B in each]))
        agree(C(z[:0]), A(z[:0]))


def test_kernels_train_through_every_padding_and_their_adjoint() -> None:
    for mode in ("zeros", "circular", "reflect", "replicate"):
        z = double(4)
        assert torch.autograd.gradcheck(
            lambda K, m=mode, x=z: Convolution(K, (1, 4), mode=m)(x), double(1, 1, 2).requires_grad_()
        )
        assert torch.autograd.gradcheck(
            lambda K, m=mode, x=z: Convolution(K, (1, 4), mode=m).H(x), double(1, 1, 2).requires_grad_()
        )
    A = Convolution(nn.Parameter(double(1, 1, 3)), (1, 4), mode="reflect")
    adjoint = A.H
    with torch.no_grad():
        A.kernel.mul_(2)
    agree(adjoint.matrix(), A.matrix().mT)  # an adjoint follows its operator
    assert [name for name, _ in A.named_parameters()] == ["kernel"]


FUNCTIONS: dict[str, Callable[[LinearOperator], LinearOperator]] = {
    "inverse": inverse,
    "pinv": pinv,
    "exp": exp,
    "cube": lambda A: A**3,
    "resolvent": lambda A: resolvent(A, 9.0),
    "slogdet": lambda A: Diagonal(slogdet(A).logabs.reshape(1)),
}


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_of_a_circular_convolution_have_gradients(f: Callable[[LinearOperator], LinearOperator]) -> None:
    def through(K: Tensor) -> Tensor:
        return f(Convolution(K, (2, 3), mode="circular")).matrix()

    start = double(2, 2, 2) + 2 * torch.eye(2)[..., None]
    assert torch.autograd.gradcheck(through, start.requires_grad_())


def test_interpolation_between_kernels_is_a_convolution() -> None:
    A, B = (Convolution(double(1, 1, 3), (1, 5), mode="reflect") for _ in range(2))
    C = 0.25 * A + 0.75 * B
    assert isinstance(C, Convolution)
    agree(C.matrix(), 0.25 * A.matrix() + 0.75 * B.matrix())


def test_the_algebra_of_circular_convolutions_stays_in_the_fourier_domain() -> None:
    A, B = Convolution(double(2, 2, 2), (2, 5), mode="circular"), Convolution(double(2, 2, 3), (2, 5), mode="circular")
    M, K, eye = A.matrix(), B.matrix(), torch.eye(10).double()
    one, circulant = identity(10, M), A.circulant()
    assert circulant is not None
    for joined, expected in (
        (A + B, M + K),
        (A @ B, M @ K),
        (A.H @ A, M.mT @ M),
        (circulant @ B.H, M @ K.mT),
        (A - 2 * one, M - 2 * eye),
        (inverse(A @ B), torch.linalg.inv(M @ K)),
        (-circulant, -M),
        (circulant**3, M @ M @ M),
        (sqrt(A.H @ A), tensor(scipy.linalg.sqrtm((M.mT @ M).numpy()).real)),
        (log(A.H @ A), tensor(scipy.linalg.logm((M.mT @ M).numpy()).real)),
        (power(A.H @ A, -0.5), torch.linalg.inv(tensor(scipy.linalg.sqrtm((M.mT @ M).numpy()).real))),
    ):
        assert isinstance(joined, BlockCirculant)
        agree(joined.matrix(), expected, float(torch.linalg.cond(M)) ** 2 * 100)
    other_grid = Convolution(double(5, 5, 1), (5, 2), mode="circular")
    agree((A + other_grid).matrix(), M + other_grid.matrix())
    agree((A + Dense(M)).matrix(), 2 * M)


@pytest.mark.parametrize("size", [(1,), (2,), (5,), (1, 1), (2, 2), (3, 4), (4, 3), (1, 6)], ids=str)
@pytest.mark.parametrize("channels", [(1, 1), (2, 3), (3, 2)], ids=str)
def test_real_singular_vectors_come_from_pairs_of_frequencies(size: tuple[int, ...], channels: tuple[int, int]) -> None:
    A = BlockCirculant.of(double(*channels, *size), len(size))
    M = A.matrix()
    U, s, V = svd(A)
    k = min(M.shape)
    agree(s, tensor(np.linalg.svd(M.numpy(), compute_uv=False)))
    agree((U * s) @ V.mT, M, 10)
    agree(U.mT @ U, torch.eye(k).double())
    agree(V.mT @ V, torch.eye(k).double())


def test_a_shift_has_repeated_singular_values_and_orthonormal_vectors() -> None:
    shift = Convolution(torch.tensor([[[1.0, 0.0]]]).double(), (1, 6), mode="circular", padding=[(1, 0)])
    U, s, V = svd(shift)
    agree(s, torch.ones(6).double())
    agree((U * s) @ V.mT, shift.matrix())
    assert torch.equal(shift.matrix().argmax(-1), torch.tensor([5, 0, 1, 2, 3, 4]))


def test_the_pseudoinverse_of_a_singular_convolution_cuts_over_all_frequencies() -> None:
    difference = Convolution(torch.tensor([[[-1.0, 1.0]]]).double(), (1, 6), mode="circular")
    assert rank(difference) == 5 and rank(difference, rtol=0.6) == 3
    agree(pinv(difference).matrix(), tensor(np.linalg.pinv(difference.matrix().numpy(), rcond=1e-9)))
    agree(pinv(difference, 0.6).matrix(), tensor(np.linalg.pinv(difference.matrix().numpy(), rcond=0.6)))


def test_a_large_circular_convolution_needs_no_dense_matrix() -> None:
    A = Convolution(double(8, 8, 3, 3) / 9, (8, 64, 64), mode="circular")
    U, s, V = svd(A, 4)
    agree(A(V.mT), (U * s).mT, 10)
    agree(A.H(U.mT), (V * s).mT, 10)
    z = double(2, 8 * 64 * 64)
    agree(inverse(A)(A(z)), z, float(cond(A).detach()))
    agree(slogdet(exp(A)).logabs, trace(A), 100)


@pytest.mark.parametrize(("kernels", "points"), [((0,), (0,)), ((0,), ()), ((1,), (0,)), ((3, 0), (3, 1))])
def test_batches_without_any_kernel_have_operators_and_gradients(kernels: tuple[int, ...], points: tuple[int, ...]) -> None:
    batch = torch.broadcast_shapes(kernels, points)
    x, y = torch.randn(*points, 50, requires_grad=True), torch.randn(*points, 75)
    A = Convolution(torch.randn(*kernels, 3, 2, 3, 3), (2, 5, 5), mode="circular")
    for f in (A, A.circulant(), A.H.H):
        assert f is not None
        assert f(x).shape == (*batch, 75) and f.H(y).shape == (*batch, 50)
        (gradient,) = torch.autograd.grad(f(x).sum(), [x])
        assert gradient.shape == x.shape and not gradient.any()
    assert pinv(A)(y).shape == (*batch, 50) and A.matrix().shape == (*kernels, 75, 50)


def test_a_circulant_follows_to_another_dtype() -> None:
    A = BlockCirculant.of(double(2, 2, 3), 1)
    z = torch.randn(4, 6)
    agree(A.float()(z), z @ A.matrix().mT)
    assert A.float().symbol.dtype == torch.complex64 and A.double().symbol.dtype == torch.complex128
