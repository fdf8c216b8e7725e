"""A projection onto the lattice has the same bits in whatever order its sums are taken: permuted, split, in pairs, with TF32.

A GPU chooses the order: by its tiles, by splitting sums over blocks (split-K), by atomic additions in the order of arrival. Here
each convolution and product is multiplied out, and its terms are added in a given order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from applications.idempotent.fixed_point import LIMIT, Conditioner, FixedPoint
from induced.bijections import LatticeCoupling
from induced.bijections.networks import ConvNet
from induced.errors import DomainError
from proofs_tests.applications.idempotent.test_exact import SMALL, digits, made
from proofs_tests.registry import shaken
from proofs_tests.tf32 import EmulatedTF32

Order = Callable[[Tensor], Tensor]
"""Adds up the terms of sums, along dimension 0."""


def one_by_one(terms: Tensor) -> Tensor:
    total = torch.zeros_like(terms[0])
    for term in terms:
        total = total + term
    return total


def permuted(seed: int) -> Order:
    def order(terms: Tensor) -> Tensor:
        return one_by_one(terms[torch.randperm(len(terms), generator=torch.Generator().manual_seed(seed))])

    return order


def split(pieces: int, seed: int) -> Order:
    """Split-K: each block adds up its share, and the shares are added as they arrive."""

    def order(terms: Tensor) -> Tensor:
        shares = [one_by_one(share) for share in torch.tensor_split(terms, pieces) if len(share)]
        return permuted(seed)(torch.stack(shares))

    return order


def in_pairs(terms: Tensor) -> Tensor:
    while len(terms) > 1:
        odd = terms[-1:] if len(terms) % 2 else terms[:0]
        terms = torch.cat([terms[0 : len(terms) - len(odd) : 2] + terms[1 : len(terms) : 2], odd])
    return terms[0]


ORDERS: dict[str, Order] = {
    "backwards": lambda terms: one_by_one(terms.flip(0)),
    "permuted": permuted(1),
    "permuted otherwise": permuted(2),
    "split in 3": split(3, 3),
    "split in 16": split(16, 4),
    "in pairs": in_pairs,
}


class Reordered(TorchDispatchMode):
    """Convolutions and products of matrices, term by term, added in this order."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order, self.seen = order, 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.name() == "aten::convolution":
            self.seen += 1
            return self._convolution(*args)
        if func.name() == "aten::mm":
            self.seen += 1
            return self.order(args[0].mT.unsqueeze(-1) * args[1].unsqueeze(-2))
        return func(*args, **(kwargs or {}))

    def _convolution(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], *rest: Any
    ) -> Tensor:
        _, transposed, *_ = rest
        (s, _), (p, _) = stride, padding
        if transposed:  # zeros between the pixels, and the kernel turned round
            apart = x.new_zeros(*x.shape[:2], *(s * (n - 1) + 1 for n in x.shape[2:]))
            apart[..., ::s, ::s] = x
            x, weight, p, s = apart, weight.transpose(0, 1).flip(2, 3), weight.shape[-1] - 1 - p, 1
        columns = F.unfold(x, weight.shape[2:], padding=p, stride=s)  # (N, K, L)
        terms = columns.movedim(1, 0).unsqueeze(2) * weight.flatten(1).mT[:, None, :, None]  # (K, N, outputs, L)
        if bias is not None:
            terms = torch.cat([terms, bias[None, None, :, None].expand(1, *terms.shape[1:])])
        sides = [(n + 2 * p - k) // s + 1 for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)]
        return self.order(terms).reshape(len(x), len(weight), *sides)


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit: +0 is not -0."""
    kind = torch.int64 if a.dtype == torch.float64 else torch.int32
    return torch.equal(a.view(kind), b.view(kind))


@pytest.mark.parametrize("order", ORDERS)
def test_a_projection_has_the_same_bits_in_any_order(order: str) -> None:
    f, x = made(SMALL).operator(), digits(2)
    expected = f(x)
    with Reordered(ORDERS[order]) as mode:
        assert same(f(x), expected)
    assert mode.seen == 38, "every convolution and product was taken apart"


def test_a_projection_has_the_same_bits_with_tf32() -> None:
    f, x = made(SMALL).operator(), digits(2)
    expected = f(x)
    with EmulatedTF32(always=True):
        assert same(f(x), expected)


BITS = 22
"""One more, and a sum could reach 2^53."""


def largest() -> tuple[FixedPoint, Tensor]:
    """A conditioner whose sums come near 2^53, at an image of the largest values."""
    torch.manual_seed(5)
    net = Conditioner(2, 2, (8, 8), (8,))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(30)
    image = torch.where(torch.rand(2, 2, 8, 8) < 0.5, -LIMIT, LIMIT)
    with pytest.raises(DomainError):
        FixedPoint(net, activation_bits=BITS + 1, weight_bits=16)
    return FixedPoint(net, activation_bits=BITS, weight_bits=16), image


@pytest.mark.parametrize("order", ORDERS)
def test_sums_near_the_limit_have_the_same_bits_in_any_order(order: str) -> None:
    net, image = largest()
    expected = net(image)
    assert float(expected.abs().max()) * 2.0 ** (BITS + 16) > 2**46
    with Reordered(ORDERS[order]):
        assert torch.equal(net(image), expected)


# ------------------------------------------------------------------------------------------------------- counterexamples
def test_float32_sums_depend_on_the_order() -> None:
    torch.manual_seed(0)
    net, image = Conditioner(2, 2, (8, 8), (8,)), torch.randn(2, 2, 8, 8)
    found = []
    with torch.no_grad():
        for order in ORDERS.values():
            with Reordered(order):
                found.append(net(image))
    assert any(not torch.equal(found[0], other) for other in found[1:])


def test_float64_sums_of_weights_that_are_no_integers_depend_on_the_order_before_they_are_rounded() -> None:
    torch.manual_seed(0)
    g = LatticeCoupling((4, 4, 4), shaken(ConvNet(2, 2, 4)), bits=44).double().requires_grad_(False)
    x, found = torch.randn(20, 4, 4, 4).double(), []
    for order in ORDERS.values():
        with Reordered(order):
            found.append(g(x))
    assert any(not torch.equal(found[0], other) for other in found[1:])


def test_a_convolution_by_fourier_transform_has_other_bits() -> None:
    net, image = largest()
    h, w = net_input(image, net.activation_bits), net.get_buffer("weight_0").double()
    exact = F.conv2d(h, w, stride=2, padding=1)
    size = [n + w.shape[-1] - 1 for n in h.shape[2:]]
    spectrum = torch.einsum("nchw,ochw->nohw", torch.fft.rfft2(h, s=size), torch.fft.rfft2(w.flip(2, 3), s=size))
    full = torch.fft.irfft2(spectrum, s=size)
    by_fourier = full[..., 2:-2:2, 2:-2:2][..., : exact.shape[2], : exact.shape[3]]
    assert torch.allclose(by_fourier, exact, rtol=1e-9, atol=1e-6 * float(exact.abs().max())), "the same convolution"
    assert not torch.equal(by_fourier.round(), exact)


def net_input(image: Tensor, activation_bits: int) -> Tensor:
    """The integers that the first convolution of a FixedPoint takes."""
    return torch.round(image.double().clamp(-LIMIT, LIMIT) * 2.0**activation_bits)
