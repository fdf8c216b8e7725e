"""Couplings whose round trip is exact to the last bit, on a lattice."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from induced._module import in_double
from induced._registry import saved_as
from induced._validate import eager
from induced.bijections.base import Pieces
from induced.bijections.coupling import Coupling
from induced.errors import DomainError


def rounded(x: Tensor, step: float) -> Tensor:
    """The nearest multiple of the step, with the gradient of x."""
    value = x.detach()
    # the difference is exact, and so is the sum, which is +0 and never -0
    return x + (torch.round(value / step) * step - value)


def require_range(x: Tensor, bits: int, what: str, *others: Tensor) -> Tensor:
    """x, which must be below the size from which neighbouring floats are more than 2^-bits apart, as the others must."""
    digits = round(1 - math.log2(torch.finfo(x.dtype).eps))
    inside = [(y.abs() < 2.0 ** (digits - bits)).all() for y in (x, *others)] if eager(x) else []
    # one look at all of them: each makes the host wait for a device
    if inside and not bool(torch.stack(inside).all()):
        wrong = next(y for y, fits in zip((x, *others), inside, strict=True) if not fits)
        raise DomainError(
            f"{what} with bits={bits} is exact for |z| < 2^({digits} - {bits}) = {2.0 ** (digits - bits):g} in {x.dtype}, "
            f"got a value of size {float(wrong.detach().abs().max()):.6g}: use fewer bits, smaller values or float64"
        )
    return x


class _OnLattice(nn.Module):
    """A conditioner evaluated in float64, its result rounded to the lattice."""

    def __init__(self, conditioner: nn.Module, step: float) -> None:
        super().__init__()
        self.conditioner, self.step = conditioner, step

    def forward(self, a: Tensor) -> Tensor:
        # autocast leaves float64 alone
        shift: Tensor = in_double(self.conditioner, a)
        return rounded(shift, self.step).to(a.dtype)


@final
@saved_as(
    "bijections.LatticeCoupling",
    describe=lambda g: {"shape": g.shape, "conditioner": g.conditioner.conditioner, "flip": g.flip, "bits": g.bits},
)
class LatticeCoupling(Coupling):
    """(a, b) -> (a, b + shift(a)) on the lattice (2^-bits Z)^n, the shift rounded to it: `g.inverse(g(x)) == x` bit for bit.

    Points and coordinates are rounded to the lattice first, ties to even and -0 to +0; on it sums of floats are exact while
    |z| < 2^(24 - bits) in float32 and 2^(53 - bits) in float64, which is required of every point and of every coordinate, in
    both directions. A 0/1 projection keeps the lattice, so that f = g^-1 P g has f(f(x)) == f(x) bit for bit.

    The conditioner is evaluated in float64, whatever the dtype of its parameters: both directions must round each shift to
    the same value. In one process that is certain for equal batches; a float64 sum that depends on the size of the batch
    changes a shift with a probability of about 1e-12. On CUDA choose deterministic kernels.

    Gradients pass through the rounding as if it were not there (straight through), so log|det J| is 0 and conditioners train.
    Addition of points is exact, the multiple a (.) x is rounded to the lattice, by at most half a `lattice_step` a coordinate.

    Arguments:
        shape: shape of a point; its first axis of length C is cut after C // 2.
        conditioner: any deterministic module from the kept half to the shift; it must run in float64.
        flip: keep the second half and change the first.
        bits: the lattice has 2^bits steps in a unit.

    Raises:
        ShapeError: nothing is left to change, or the conditioner returns another shape than that of the changed half.
        DomainError: a point or a coordinate is out of the lattice's range, or not finite.

    Example:
        >>> import torch
        >>> from induced.bijections.networks import MLP
        >>> g = LatticeCoupling((4,), MLP(2, 2, 8), bits=12)
        >>> x = g.inverse(torch.randn(4))
        >>> torch.equal(g.inverse(g(x)), x)
        True

    Law:
        `torch.equal(g.inverse(g(x)), x)` on the lattice (docs/theory/idempotent.md; laws/test_lattice.py)
    """

    parameters_per_entry = 1

    def __init__(self, shape: Sequence[int], conditioner: nn.Module, *, flip: bool = False, bits: int = 12) -> None:
        super().__init__(shape, _OnLattice(conditioner, 2.0**-bits), flip=flip)
        self.bits, self.lattice_step = bits, 2.0**-bits
        self.label = "a lattice coupling"
        """What messages call it."""

    def _step(self, pieces: Pieces) -> Pieces:
        on = self._onto_lattice(pieces)
        return self._inside(on, super()._step(on))

    def _step_back(self, pieces: Pieces) -> Pieces:
        on = self._onto_lattice(pieces)
        return self._inside(on, super()._step_back(on))

    def _step_and_log_abs_det(self, pieces: Pieces) -> tuple[Pieces, Tensor]:
        return self._step(pieces), self._batch_zeros(pieces[0])

    def _step_back_and_log_abs_det(self, pieces: Pieces) -> tuple[Pieces, Tensor]:
        return self._step_back(pieces), self._batch_zeros(pieces[0])

    def _transform(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        return b + parameters, None

    def _restore(self, b: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        return b - parameters, None

    def _onto_lattice(self, pieces: Pieces) -> Pieces:
        return tuple(rounded(piece, self.lattice_step) for piece in pieces)

    def _inside(self, given: Pieces, made: Pieces) -> Pieces:
        """What was made of the given pieces; one of them is still the same."""
        first, *others = (*given, made[0 if self.flip else 1])
        require_range(first, self.bits, self.label, *others)
        return made
