"""An orthogonal change of basis as part of a chart: reflections while it trains, and a rotation of the lattice after."""

from typing import final

import torch
from torch import Tensor

from applications.idempotent.fixed_point import integers, require_exact
from induced.bijections import Bijection
from induced.bijections.lattice import require_range, rounded
from induced.serialization import register

_REACH = 24
"""A shear sees values below 2^(24 - bits), all that float32 has on the lattice."""


@final
class LatticeRotation(Bijection):
    """The rotation that takes the span of r columns to that of the first r unit vectors, as a bijection of the lattice.

    A subspace of dimension r and the one it is taken to differ by r angles theta_i: the rotation turns r planes, and each turn
    is three shears, z = (a, b): a += T b, b -= S a, a += T b. With an orthonormal basis (V_a, V_b) and V_a = U cos(theta) W^T,
    S = V_b W U^T and T = U (1 + cos(theta))^-1 W^T V_b^T. Each shear is rounded to the lattice and computed in fixed point, so
    that the inverse is exact; the rotation itself is met up to that rounding.

    Arguments:
        V: orthonormal columns (n, r), r >= 1.
        bits: the lattice has 2^bits steps in a unit.
        weight_bits: entries of T and S are multiples of 2^-weight_bits.

    Raises:
        DomainError: a point or a coordinate is out of the lattice's range, or a sum could reach 2^53.

    Law:
        `torch.equal(g.inverse(g(x)), x)` on the lattice (applications/idempotent/test_exact.py)
    """

    def __init__(self, V: Tensor, *, bits: int, weight_bits: int) -> None:
        n, self.rank = V.shape
        super().__init__((n,))
        self.bits, self.weight_bits, self.lattice_step = bits, weight_bits, 2.0**-bits
        self.label = "the change of basis"
        top, bottom = torch.split_with_sizes(V.detach().double(), [self.rank, n - self.rank])
        U, cosines, Wh = torch.linalg.svd(top)
        for name, matrix in (("T", (U / (1 + cosines)) @ Wh @ bottom.mT), ("S", bottom @ Wh.mT @ U.mT)):
            shear = integers(matrix, weight_bits)
            require_exact(shear.abs().sum(1) * 2.0**_REACH, self.label, f"weight_bits={weight_bits}")
            self.register_buffer(name, shear.long())

    def forward(self, x: Tensor) -> Tensor:
        return self._sheared(x, self.get_buffer("T"), -self.get_buffer("S"))

    def inverse(self, z: Tensor) -> Tensor:
        return self._sheared(z, -self.get_buffer("T"), self.get_buffer("S"))

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self._batch_zeros(x)

    def _sheared(self, x: Tensor, T: Tensor, S: Tensor) -> Tensor:
        on = require_range(rounded(x, self.lattice_step), self.bits, self.label)
        a, b = on[..., : self.rank], on[..., self.rank :]
        a = self._add(a, b, T)
        b = self._add(b, a, S)
        return torch.cat([self._add(a, b, T), b], -1)

    def _add(self, b: Tensor, a: Tensor, shear: Tensor) -> Tensor:
        """b + shear a, rounded to the lattice; -shear rounds to the negative of what shear rounds to."""
        steps = (a.double() * 2.0**self.bits).clamp(-(2.0**_REACH), 2.0**_REACH)
        shift = rounded(steps @ shear.double().mT * 2.0**-self.weight_bits, 1.0) * self.lattice_step
        return require_range(b + shift.to(b.dtype), self.bits, self.label)


def reflections(V: Tensor) -> Tensor:
    """Rows (r, n) of the Householder product that takes the span of orthonormal columns (n, r) to the first r unit vectors."""
    r = V.shape[1]
    factors = torch.geqrf(V.double())[0]
    below = torch.tril(factors, -1) + torch.eye(*V.shape, dtype=torch.float64, device=V.device)
    # V = H_1 ... H_r R, so that H_r ... H_1 takes its span to that of the first r unit vectors
    return below.mT.flip(0).to(V.dtype).reshape(r, -1)


def _blank(n: int, rank: int, bits: int, weight_bits: int) -> LatticeRotation:
    return LatticeRotation(torch.eye(n)[:, :rank], bits=bits, weight_bits=weight_bits)


def _described(g: LatticeRotation) -> dict[str, int]:
    return {"n": g.shape[0], "rank": g.rank, "bits": g.bits, "weight_bits": g.weight_bits}


register(LatticeRotation, describe=_described, build=_blank, name="idempotent.LatticeRotation")
