"""Plots of measured lines."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from applications.common.figures import save_figure


def line_plot(
    path: str | os.PathLike[str],
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
) -> Path:
    """Write a plot of named lines (x, y), each with its label; each measured point is marked."""
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axis = figure.subplots()
    for name, (x, y) in series.items():
        axis.plot(x, y, marker="o", markersize=3, linewidth=1.2, label=name)
    axis.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log" if log_x else "linear")
    axis.grid(alpha=0.3)
    if len(series) > 1:
        axis.legend(frameon=False)
    return save_figure(figure, path)
