"""Plots for people (extra `plot`): spaces, spectra, singular vectors and trajectories on matplotlib axes.

The one module of the library that knows plots: a leaf, which nothing imports. Each function draws on the axes it is given,
or on a new pyplot figure, and returns them; it shows nothing and sets nothing global. Colours are those of Okabe and Ito,
which the colour-blind tell apart.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from induced._validate import require_shape
from induced.errors import DomainError, MissingExtra, ShapeError, SpaceMismatch
from induced.linearizer import SVD, LinearizerOperator
from induced.spaces import HilbertSpace
from induced.spectrum import Spectrum

try:
    from matplotlib import pyplot
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise MissingExtra(f"plots need matplotlib ({error}): install induced[plot]") from error

__all__ = ["plot_singular_vectors", "plot_space", "plot_spectrum", "plot_trajectory"]

Array = np.ndarray[Any, Any]
View = Callable[[Tensor], Tensor]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
BLUE, ORANGE, RED, GREY = PALETTE[0], PALETTE[1], PALETTE[3], "#888888"
POINTS = 101
"""Points of a drawn curve."""
NAMED = 8
"""The most lines that a legend names."""


def plot_space(
    space: HilbertSpace,
    *,
    extent: float = 2.0,
    lines: int = 9,
    sums: Tensor | None = None,
    segments: Tensor | None = None,
    view: View | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The grid of a plane: straight lines of coordinates, g^-1(t, c) in blue and g^-1(c, t) in orange, for |t|, |c| <= extent.

    Arguments:
        space: a space of dimension 2.
        extent: the largest coordinate drawn.
        lines: lines in each direction, at least 2; the thick ones of an odd number are the axes of the coordinates.
        sums: pairs x, y of points (*batch, 2, *shape), each drawn as the parallelogram 0_g, x, x (+) y, y.
        segments: pairs of points (*batch, 2, *shape), each joined by its induced geodesic.
        view: a function from points (*batch, *shape) to the paper (*batch, 2); the points themselves by default.
        ax: the axes; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        ShapeError: the space has another dimension than 2, its points are not pairs and no view is given, or pairs are none.
        DomainError: fewer than two lines, an extent that is not positive, or one so large that the chart overflows.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from induced import InducedSpace
        >>> from induced.bijections import Log
        >>> ax = plot_space(InducedSpace(Log((2,))), extent=1.0, ax=Figure().subplots())
        >>> ax.lines[0].get_xdata()[[0, 50, 100]].round(3)   # exp of -1, 0, 1
        array([0.368, 1.   , 2.718])

    Law:
        the corner opposite 0_g is `space.add(x, y)` (Def 2.2; units/test_plot.py)
    """
    if space.dim != 2:
        raise ShapeError(f"a grid is drawn of a space of dimension 2, {space!r} has dimension {space.dim}")
    if lines < 2 or not 0.0 < extent < float("inf"):
        raise DomainError(f"a grid needs lines >= 2 and a finite extent > 0, got lines={lines} and extent={extent}")
    dtype = space.dtype or torch.float64
    ticks, along = (torch.linspace(-extent, extent, n, dtype=dtype, device=space.device) for n in (lines, POINTS))
    straight = torch.stack([along.expand(lines, -1), ticks[:, None].expand(-1, POINTS)], -1)
    with torch.no_grad():
        grid = [_seen(space.point(z), space, view) for z in (straight, straight.flip(-1))]
        curves = () if segments is None else _curves(*_pairs(segments, space, "segments"), space, view)
        shapes = None if sums is None else _parallelograms(*_pairs(sums, space, "sums"), space, view)
    ax = _axes(ax)
    for family, colour in zip(grid, (BLUE, ORANGE), strict=True):
        for k, curve in enumerate(family):
            ax.plot(*curve.T, color=colour, linewidth=2.0 if 2 * k + 1 == lines else 0.8, alpha=0.7)
    for k, curve in enumerate(curves):
        ax.plot(*curve.T, color=RED, linewidth=2.0, label=None if k else "segment")
        ax.plot(*curve[[0, -1]].T, "o", color=RED, markersize=5)
    if shapes is not None:
        near, far, ends, corners = shapes
        for k, curve in enumerate([*near, *far]):
            ax.plot(*curve.T, color="black", linewidth=1.6, linestyle="-" if k < len(near) else "--")
        ax.plot(*ends.T, "o", color="black", markersize=5, label="x, y")
        ax.plot(*corners.T, "*", color=RED, markersize=12, label="x ⊕ y")
    if shapes is not None or len(curves):
        ax.legend(loc="best", framealpha=0.9)
    return _plane(ax, named=view is None)


def _pairs(pairs: Tensor, space: HilbertSpace, what: str) -> tuple[Tensor, Tensor]:
    require_shape(pairs, (2, *space.shape), f"the pairs of {what}")
    if pairs.numel() == 0:
        raise ShapeError(f"there are no {what} to draw: got pairs of shape {tuple(pairs.shape)}")
    x, y = pairs.reshape(-1, 2, *space.shape).unbind(1)
    return x, y


def _curves(x: Tensor, y: Tensor, space: HilbertSpace, view: View | None) -> Array:
    """The segments from x to y, points (k, *shape), as curves (k, POINTS, 2)."""
    t = torch.linspace(0, 1, POINTS, dtype=x.dtype, device=x.device)
    return _seen(space.segment(x[None], y[None], t[:, None]), space, view).swapaxes(0, 1)


def _parallelograms(x: Tensor, y: Tensor, space: HilbertSpace, view: View | None) -> tuple[Array, Array, Array, Array]:
    """The sides that meet at 0_g, those that meet at x (+) y, the ends x and y, and the corners x (+) y."""
    zero, total = space.zero(2 * len(x), dtype=x.dtype, device=x.device), space.add(x, y)
    ends = torch.cat([x, y])
    near, far = _curves(zero, ends, space, view), _curves(ends, torch.cat([total, total]), space, view)
    return near, far, _seen(ends, space, view), _seen(total, space, view)


def plot_spectrum(f: LinearizerOperator | Spectrum | SVD, *, ax: Axes | None = None) -> Axes:
    """Eigenvalues in the complex plane beside the unit circle, or singular values on a logarithmic axis.

    Arguments:
        f: an operator of one space, or its `f.spectrum()`: the eigenvalues are drawn. An SVD, `f.svd(rank)`, of any operator:
            the singular values it holds are.
        ax: the axes; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        SpaceMismatch: f goes between two spaces and has no eigenvalues; draw its `f.svd()`. ShapeError: there are no values.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from induced import EuclideanSpace, Linearizer
        >>> f = Linearizer(torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double(), EuclideanSpace(2))
        >>> ax = plot_spectrum(f, ax=Figure().subplots())
        >>> ax.lines[-1].get_ydata()   # the imaginary parts of i and -i
        array([ 1., -1.])
    """
    held = f.spectrum() if isinstance(f, LinearizerOperator) else f
    values = held.values.detach().cpu().numpy()
    if values.size == 0:
        raise ShapeError(f"there are no values to draw: {held!r}")
    ax = _axes(ax)
    if isinstance(held, SVD):
        zeros = int((values == 0).sum())
        ax.plot(np.arange(1, 1 + len(values)), values, "o-", color=BLUE, markersize=4, linewidth=1)
        ax.set_yscale("log" if zeros < len(values) else "linear")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel=f"i ({zeros} values are 0)" if zeros else "i", ylabel="singular value $s_i$")
        return ax
    turn = np.linspace(0, 2 * np.pi, 2 * POINTS)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.axvline(0, color=GREY, linewidth=0.6)
    ax.plot(np.cos(turn), np.sin(turn), "--", color=GREY, linewidth=1)
    ax.plot(values.real, values.imag, "o", color=BLUE, markersize=6)
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$", aspect="equal")
    return ax


def plot_singular_vectors(f: LinearizerOperator | SVD, k: int = 4, *, scale: float = 1.0, ax: Array | None = None) -> Array:
    """The first k singular vectors as points: a (.) v_i of the domain above, a (.) u_i of the codomain below.

    Points of shape (H, W), (1, H, W) or (3, H, W) are drawn as images, vectors (n,) as stems that start at the entries of the
    zero vector 0_g; each row has one scale.

    Arguments:
        f: an operator, or an SVD of at least k triplets.
        k: how many, at least 1.
        scale: the factor a; the singular vectors of norm 1 themselves by default.
        ax: 2 k axes, e.g. an array (2, k); those of a new figure by default.

    Returns:
        The axes, an array (2, k).

    Raises:
        ShapeError: k is below 1 or above the number of triplets, the axes are not 2 k, or points are neither vectors nor images.

    Law:
        `f(above) == s_i (.) below` for scale 1 (Prop 2.9; units/test_plot.py)
    """
    svd = f.svd() if isinstance(f, LinearizerOperator) else f
    if not 1 <= k <= len(svd.values):
        raise ShapeError(f"k lies in 1..{len(svd.values)}, the number of singular vectors, got {k}")
    if ax is not None and np.size(ax) != 2 * k:
        raise ShapeError(f"{k} right and {k} left singular vectors are drawn on {2 * k} axes, got {np.size(ax)}")
    with torch.no_grad():
        rows = [
            (
                _picture(space.point(scale * factor[:, :k].mT), space),
                _picture(space.zero(dtype=factor.dtype, device=factor.device), space),
            )
            for space, factor in ((svd.domain, svd.V), (svd.codomain, svd.U))
        ]
    if ax is None:
        ax = pyplot.subplots(2, k, figsize=(1.0 + 1.6 * k, 3.8), squeeze=False, layout="constrained")[1]
    axes: Array = np.asarray(ax, dtype=object).reshape(2, k)
    for line, (points, zero) in zip(axes, rows, strict=True):
        low, high = float(min(points.min(), zero.min())), float(max(points.max(), zero.max()))
        for each, point in zip(line, points, strict=True):
            _draw(each, point, zero, low, high)
    for i, each in enumerate(axes[0]):
        each.set_title(f"$s_{{{i + 1}}}$ = {float(svd.values[i]):.3g}", fontsize=10)
    axes[0, 0].set_ylabel("right, $v_i$")
    axes[1, 0].set_ylabel("left, $u_i$")
    return axes


def _picture(points: Tensor, space: HilbertSpace) -> Array:
    """Points as vectors (*batch, n) or images (*batch, H, W) or (*batch, H, W, 3)."""
    shape = space.shape
    if len(shape) not in (1, 2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        raise ShapeError(
            f"singular vectors are drawn as vectors (n,) or images (H, W), (1, H, W) or (3, H, W); "
            f"points of {space!r} have shape {shape}"
        )
    if len(shape) == 3:
        points = points.squeeze(-3) if shape[0] == 1 else points.movedim(-3, -1)
    return _array(points)


def _draw(ax: Axes, point: Array, zero: Array, low: float, high: float) -> None:
    if point.ndim == 1:
        index = np.arange(1, 1 + len(point))
        ax.plot(index, zero, "_", color=GREY)
        ax.vlines(index, zero, point, color=BLUE, linewidth=1.5)
        ax.plot(index, point, "o", color=BLUE, markersize=4)
        margin = 0.08 * (high - low) or 1.0
        ax.set_ylim(low - margin, high + margin)
        ax.margins(x=0.15)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    # imshow scales grey values by its limits, but takes colours in [0, 1] alone
    shown = point if point.ndim == 2 else (point - low) / ((high - low) or 1.0)
    ax.imshow(shown, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    ax.set(xticks=[], yticks=[])


def plot_trajectory(
    f: LinearizerOperator,
    x: Tensor,
    *,
    steps: int | None = None,
    times: Tensor | Sequence[float] | None = None,
    over_time: bool = False,
    view: View | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The powers x, f(x), ..., f^steps(x), or the flow exp(t f)(x) at given times, in the plane or over time.

    Arguments:
        f: an operator of one space; for a flow, its generator.
        x: starts, points (*batch, *shape), at least one.
        steps: the number of powers, at least 1.
        times: the times t of the flow, at least one; give either `steps` or `times`.
        over_time: draw the entries of the points over time, a colour each, and not the points in the plane.
        view: for the plane, a function from points (*batch, *shape) to (*batch, 2); the points themselves by default.
        ax: the axes; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        SpaceMismatch: f goes between two spaces. ShapeError: no points or times, or points that are not pairs in the plane.
        DomainError: both or neither of `steps` and `times`, or fewer than one step; or the path leaves the chart's range.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from induced import InducedSpace, Linearizer
        >>> from induced.bijections import Log
        >>> f = Linearizer(torch.diag(torch.tensor([2.0, 3.0])), InducedSpace(Log((2,))))   # (x, y) -> (x^2, y^3)
        >>> ax = plot_trajectory(f, torch.tensor([2.0, 1.0]), steps=3, ax=Figure().subplots())
        >>> ax.lines[0].get_xdata().round(3)
        array([  2.,   4.,  16., 256.])

    Law:
        `f ** k` and `f.exp(t)` give the points drawn (eq. 4; units/test_plot.py)
    """
    space = f.domain
    if space != f.codomain:
        raise SpaceMismatch(f"a trajectory needs one space on both sides, got {space!r} and {f.codomain!r}")
    if (steps is None) == (times is None) or (steps is not None and steps < 1):
        raise DomainError(f"a trajectory has steps >= 1 of powers or times of a flow, one of both; got {steps=} and {times=}")
    moments = torch.arange(steps + 1) if steps is not None else torch.as_tensor(times, dtype=torch.float64).reshape(-1)
    with torch.no_grad():
        z = space.coords(x).reshape(-1, space.dim)
        if z.numel() == 0 or len(moments) == 0:
            raise ShapeError(f"a trajectory needs a start and a time: got {len(z)} points and {len(moments)} times")
        if steps is None:
            path = [f.exp(t).core(z) for t in moments.tolist()]
        else:
            path = [z]
            for _ in range(steps):
                path.append(f.core(path[-1]))
        points = space.point(torch.stack(path))
        drawn = _array(points).reshape(*points.shape[:2], -1) if over_time else _seen(points, space, view)
    ax = _axes(ax)
    marker = None if steps is None else "."
    if not over_time:
        for i in range(len(z)):
            colour = PALETTE[i % len(PALETTE)]
            ax.plot(*drawn[:, i].T, color=colour, marker=marker, linewidth=1.2 if steps is None else 0.8)
            ax.plot(*drawn[:1, i].T, "o", color=colour, markersize=6)
        return _plane(ax, named=view is None)
    for j in range(drawn.shape[-1]):
        for i in range(len(z)):
            label = f"$x_{{{j + 1}}}$" if i == 0 else None
            ax.plot(moments, drawn[:, i, j], color=PALETTE[j % len(PALETTE)], marker=marker, linewidth=1.2, label=label)
    if drawn.shape[-1] <= NAMED:
        ax.legend(loc="best", framealpha=0.9)
    ax.set(xlabel="t" if steps is None else "k", ylabel="exp(t f)(x)" if steps is None else "$f^k$(x)")
    return ax


def _seen(points: Tensor, space: HilbertSpace, view: View | None) -> Array:
    """Where points (*batch, *shape) are on paper, (*batch, 2)."""
    batch = points.shape[: points.dim() - len(space.shape)]
    seen = points if view is None else view(points)
    if seen.shape != (*batch, 2):
        raise ShapeError(
            f"points are drawn in the plane as (*batch, 2), got {tuple(seen.shape)} for a batch {tuple(batch)} of {space!r}: "
            f"give a `view`, a function from points to the plane"
        )
    return _array(seen)


def _array(x: Tensor) -> Array:
    return x.detach().to("cpu", torch.float64).numpy()


def _axes(ax: Axes | None) -> Axes:
    return pyplot.subplots(layout="constrained")[1] if ax is None else ax


def _plane(ax: Axes, *, named: bool) -> Axes:
    ax.set_aspect("equal")
    if named:
        ax.set(xlabel="$x_1$", ylabel="$x_2$")
    return ax
