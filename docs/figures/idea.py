"""The idea in one picture: two bent planes, each with a chart onto the straight one, and a matrix between the straight ones.

`python docs/figures/idea.py` writes docs/figures/idea.svg. Colours are of middle brightness: the page may be light or dark.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from induced import InducedSpace, Linearizer
from induced.bijections import Bijection, from_callables

GREY, ACROSS, UP, SUM = "#808792", "#3d86e0", "#e0742d", "#9a5bd6"
REACH = 2.0


def waves(down: float, across: float) -> Bijection:
    """A chart of the plane: one shear by a wave after another."""

    def forward(x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        b = b - across * torch.sin(1.4 * a)
        return torch.stack([a - down * torch.sin(1.3 * b + 0.4), b], -1)

    def inverse(z: Tensor) -> Tensor:
        a, b = z.unbind(-1)
        a = a + down * torch.sin(1.3 * b + 0.4)
        return torch.stack([a, b + across * torch.sin(1.4 * a)], -1)

    return from_callables(forward, inverse, (2,))


X, Y = InducedSpace(waves(0.45, 0.35)), InducedSpace(waves(-0.4, 0.5))
f = Linearizer(torch.tensor([[0.75, -0.5], [0.4, 0.65]]), X, Y)
U, V = torch.tensor([1.5, 0.5]), torch.tensor([-0.5, 1.25])


def panel(axes: Axes, title: str, place: Callable[[Tensor], Tensor], names: tuple[str, str, str]) -> None:
    """A grid of coordinates, two vectors and their sum, brought to the panel."""
    along = torch.linspace(-REACH, REACH, 49)
    for at in torch.linspace(-REACH, REACH, 9):
        for colour, line in ((ACROSS, (along, at.expand(49))), (UP, (at.expand(49), along))):
            points = place(torch.stack(line, -1))
            axes.plot(*points.T, color=colour, lw=1.5 if at == 0 else 0.8, alpha=0.9 if at == 0 else 0.45)
    steps = torch.linspace(0, 1, 25)[:, None]
    for start, end, style in ((0 * U, U, "-"), (0 * V, V, "-"), (U, U + V, ":"), (V, U + V, ":"), (0 * U, U + V, "-")):
        points = place(start + steps * (end - start))
        axes.plot(*points.T, color=SUM if (style == "-" and end is not U and end is not V) else GREY, lw=2.2, ls=style)
    axes.plot(*place(0 * U), "o", ms=6, color=GREY)
    for point, colour, name, side in zip((U, V, U + V), (GREY, GREY, SUM), names, ("left", "right", "center"), strict=True):
        x, y = place(point)
        axes.plot(x, y, "o", ms=6, color=colour)
        nudge = {"left": (0.15, 0), "right": (-0.15, 0), "center": (0, 0.24)}[side]
        axes.text(x + nudge[0], y + nudge[1], name, color=colour, fontsize=14, ha=side, va="center", weight="bold")
    axes.set_title(title, color=GREY, fontsize=14)
    axes.set_aspect("equal")
    axes.set(xlim=(-2.75, 2.75), ylim=(-2.75, 2.75))
    axes.axis("off")


def draw() -> Figure:
    """x -> f(x) above, coordinates z -> A z below."""
    figure = Figure(figsize=(7.2, 7.0))
    axes = figure.subplots(
        2, 2, gridspec_kw={"wspace": 0.12, "hspace": 0.22, "left": 0.01, "right": 0.99, "top": 0.95, "bottom": 0.0}
    )
    panel(axes[0, 0], "the space X", X.point, ("u", "v", "u ⊕ v"))
    panel(axes[0, 1], "the space Y", lambda z: f(X.point(z)), ("f(u)", "f(v)", "f(u) ⊕ f(v)"))
    panel(axes[1, 0], "coordinates of X", lambda z: z, ("", "", "sum"))
    panel(axes[1, 1], "coordinates of Y", f.core, ("", "", "sum"))
    arrows = (
        ((0.455, 0.735), (0.555, 0.735), "f", (0.505, 0.765)),
        ((0.455, 0.2), (0.555, 0.2), "A", (0.505, 0.23)),
        ((0.235, 0.545), (0.235, 0.475), "g$_X$", (0.275, 0.51)),
        ((0.765, 0.475), (0.765, 0.545), "g$_Y^{-1}$", (0.815, 0.51)),
    )
    for start, end, text, at in arrows:
        figure.add_artist(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=16, lw=1.8, color=GREY))
        figure.text(*at, text, color=GREY, fontsize=14, ha="center", va="center")
    return figure


if __name__ == "__main__":
    with mpl.rc_context({"svg.hashsalt": "induced", "path.simplify_threshold": 0.5}):
        draw().savefig(Path(__file__).with_suffix(".svg"), transparent=True, metadata={"Date": None})
