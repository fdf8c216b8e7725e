"""What styles are as linear operators: sums, strengths, removal, low-rank parts, distances, principal styles."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from applications.style_transfer.config import IDENTITY
from applications.style_transfer.model import Styles
from induced import Linearizer, LinearizerOperator
from induced.errors import DomainError
from induced.operators import BlockCirculant, Convolution


def mix(styles: Styles, weights: Mapping[str, float]) -> LinearizerOperator:
    """sum_s w_s f_s, of core sum_s w_s A_s.

    Raises:
        DomainError: no style has a weight, or one is unknown.
    """
    if not weights:
        raise DomainError(f"a mixture has at least one style of {', '.join(styles.config.names)}")
    return reduce(add, (weight * styles[name] for name, weight in weights.items()))


def interpolate(styles: Styles, first: str, second: str, a: float) -> LinearizerOperator:
    """(1 - a) f_1 + a f_2, of core (1 - a) A_1 + a A_2 (eq. 19)."""
    return (1 - a) * styles[first] + a * styles[second]


def strength(styles: Styles, f: LinearizerOperator, a: float) -> LinearizerOperator:
    """f_0 + a (f - f_0), f_0 the identity style: 0 leaves a picture as it is, above 1 exaggerates."""
    identity = styles[IDENTITY]
    return identity + a * (f - identity)


def remove(f: LinearizerOperator, rtol: float | None = None) -> LinearizerOperator:
    """f^+: from a stylised picture to the photograph of least norm that f makes it from; `rtol` as in `pinv`."""
    return f.pinv(rtol)


def restyle(f: LinearizerOperator, h: LinearizerOperator, rtol: float | None = None) -> LinearizerOperator:
    """h f^+ on Y: from a picture in the style f to one in the style h."""
    return h @ f.pinv(rtol)


def low_rank(styles: Styles, f: LinearizerOperator, rank: int) -> LinearizerOperator:
    """f_0 + (f - f_0)_r: of the difference to the identity, what `rank` combinations of channels at each frequency carry best.

    Raises:
        DomainError: the core is no convolution on a cyclic grid, or the rank is not in 0..channels.
    """
    identity = styles[IDENTITY]
    core = (f - identity).core
    symbol = core.circulant() if isinstance(core, Convolution | BlockCirculant) else None
    if symbol is None:
        raise DomainError(f"a low-rank part is taken frequency by frequency: the core must be circular, got {core!r}")
    if not 0 <= rank <= styles.config.channels:
        raise DomainError(f"the rank of a style lies in 0..{styles.config.channels}, got {rank}")
    U, s, Vh = torch.linalg.svd(symbol.symbol, full_matrices=False)
    part = (U[..., :rank] * s[..., None, :rank]) @ Vh[..., :rank, :]
    return identity + Linearizer(BlockCirculant(part, symbol.size), styles.domain, styles.codomain)


def distances(styles: Styles) -> Tensor:
    """|A_i - A_j|_F / sqrt(n) (S, S) between all styles: root mean square change of a coordinate for coordinates N(0, I)."""
    flat = _vectors(styles)
    between: Tensor = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return between


@dataclass(frozen=True, eq=False)
class PrincipalStyles:
    """Styles as mean + sum_i scores_i components_i in the space of operators.

    Attributes:
        mean: kernel of the mean style.
        components: kernels (r, ...), orthonormal for <A, B> = tr(A^T B) / channels / positions.
        scores: (S, r).
        explained: share of the variance of each component.
    """

    mean: Tensor
    components: Tensor
    scores: Tensor
    explained: Tensor


def principal_styles(styles: Styles) -> PrincipalStyles:
    """Principal component analysis of the styles as operators."""
    flat, kernels = _vectors(styles), styles.kernels.double()
    mean = flat.mean(0)
    U, s, Vh = torch.linalg.svd(flat - mean, full_matrices=False)
    kept = min(len(flat) - 1, len(s))  # centred, S styles span S - 1 directions
    scale = styles.config.channels**0.5
    shape = (kept, *kernels.shape[1:])
    variance = s[:kept].square()
    return PrincipalStyles(
        kernels.mean(0), scale * Vh[:kept].reshape(shape), U[:, :kept] * s[:kept], variance / variance.sum().clamp(min=1e-300)
    )


def _vectors(styles: Styles) -> Tensor:
    """Kernels as vectors (S, m) whose distances are those of the operators: each entry of a kernel occurs once a position."""
    flat: Tensor = styles.kernels.detach().double().flatten(1) / styles.config.channels**0.5
    return flat
