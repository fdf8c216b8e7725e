"""What images of growing sides cost: the chart, a training step, the collapsed operator, and what 8 GPUs would do with them.

    python -m experiments.measure_scaling [--sides 32 64 128 256] [--channels 3]

The model has two blocks a level, and a level more for colours, which are not squeezed first; the same network at
every side. Times are CPU milliseconds an image of one thread, those of training user time. Memory of an image is the difference
of two peaks, of a batch and of half of it, each in a process of its own (Linux). The plan for 8 GPUs is arithmetic from these
figures, a data sheet, and the assumptions that stand below.
"""

import argparse
import math
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import starmap
from resource import RUSAGE_SELF, getrusage
from statistics import linear_regression, median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from applications.common.randomness import Noise, drawn
from applications.flow_matching.config import ModelConfig, ObjectiveConfig
from applications.flow_matching.model import DATA, FlowMatching, build
from applications.flow_matching.objective import FlowMatchingObjective
from benchmarks.bench_collapse import shaken
from benchmarks.common import forget_peak, resident, seconds, size
from induced.bijections import Conv1x1
from induced.operators import LowRank, ScaledIdentityPlusLowRank
from induced.propagators import propagator

STEPS, RANK = 100, 16
COPIES = 24
"""Bytes of a parameter: weight, gradient and its copy while it is exchanged, two moments of Adam, moving average; in float32."""

GPUS, FLOPS, BANDWIDTH, LINK = 8, 989e12, 3.35e12, 450e9
"""Of an H100 SXM by its data sheet: bf16 without sparsity, memory, NVLink one way."""
UTILISATION, TRAFFIC, LAUNCH = 0.25, 0.7, 10e-6
"""Assumed, not measured: shares of FLOPS and BANDWIDTH that are reached, seconds to start an operation."""

FILL = 60e3
"""MB that the images of one GPU may take, of its 80 GB; at most 128 images."""
IMAGES = 10e6

FIGURES = {
    "parameters, M": ("parameters", 1e-6),
    "of the convolutions, M": ("of convolutions", 1e-6),
    "of the dense couplings, M": ("of dense", 1e-6),
    "of the family, M": ("of family", 1e-6),
    "forward, ms": ("forward", 1),
    "of it the dense couplings, ms": ("dense", 1),
    "inverse, ms": ("inverse", 1),
    "training, ms": ("training", 1),
    "training, reversible, ms": ("reversible", 1),
    "drawing random numbers, ms": ("drawing", 1),
    "Adam, ms a step": ("Adam", 1),
    "memory, MB": ("MB", 1),
    "memory, reversible, MB": ("MB, reversible", 1),
    "GFLOP, training": ("FLOP", 1e-9),
    "GB read and written, training": ("bytes", 1e-9),
    "operations a step": ("operations", 1),
}
"""Rows of the first table: the key of a figure and its unit."""

Row = dict[str, float]


class Traffic(TorchDispatchMode):
    """Counts the operations that compute, and the bytes of the tensors that each reads and writes, none of them fused."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.name():
            self.operations += 1
            self.bytes += size(*(t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)))
        return result


def alone(function: Callable[..., Row], *arguments: object) -> Row:
    """The result of a call in a process of its own, where nothing was allocated before."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def config_of(channels: int, side: int, **changes: Any) -> ModelConfig:
    """Two blocks a level, and another level for colours."""
    levels = 3 + (channels > 1)
    sizes: Any = {"blocks": 2 * levels, "widths": (32, 48, 96, 192)[:levels], "dense_width": 128, "rank": 16, "components": 0}
    return ModelConfig(shape=(channels, side, side), **sizes, **changes)


def batch_of(config: ModelConfig) -> int:
    """Few enough images to be quick."""
    return 16 if config.shape[1] <= 64 and config.conditioner == "conv" else 4


def arithmetic(forms: Mapping[str, Callable[[], None]], rounds: int = 3) -> Row:
    """Median user seconds of forms that take turns: without those in which the system hands out memory, as no GPU has to."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            before = getrusage(RUSAGE_SELF).ru_utime
            form()
            found[name].append(getrusage(RUSAGE_SELF).ru_utime - before)
    return {name: median(times) for name, times in found.items()}


def prepared(config: ModelConfig, batch: int) -> tuple[FlowMatching, Callable[[], None]]:
    """A model that holds gradients, as it does from its second step on, and loss and gradients of a batch."""
    torch.manual_seed(0)
    model = build(config)
    objective = FlowMatchingObjective(model, ObjectiveConfig(perceptual=0.0, noise_share=min(4, batch)))
    rows = {"images": 2 * torch.rand(batch, *config.shape) - 1}
    (draws,) = drawn([objective.draw(batch, torch.Generator().manual_seed(0))], batch, 0, 0)
    with torch.no_grad():
        objective.initialize(rows, draws)
    for p in model.parameters():
        p.grad = p.detach().clone()
    return model, lambda: objective(rows, draws)["loss"].backward()


def peak(config: ModelConfig, batch: int) -> Row:
    """MB above the model and its gradients while loss and gradients of a batch are computed.

    Parameters that grow with the image are frozen: the gradient of one of them, which comes when the activations are gone, would
    hide a small batch.
    """
    model, step = prepared(config, batch)
    for part in (model.family, *model.encoder[2:]):
        part.requires_grad_(False)
    before = forget_peak()
    step()
    return {"MB": (resident() - before) / 1024}


def training(config: ModelConfig, batch: int) -> Row:
    """Milliseconds of a training step, and what is computed in it."""
    model, step = prepared(config, batch)
    _, reversibly = prepared(replace(config, reversible=True), batch)

    def drawing() -> None:
        images = {"noise": Noise((batch, *config.shape), normal=False)}
        drawn([images, objective.draw(batch, torch.Generator())], batch, 0, 0)

    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        step()
    objective = FlowMatchingObjective(model, ObjectiveConfig(perceptual=0.0))
    optimizer = torch.optim.Adam(model.parameters())
    times = arithmetic({"training": step, "reversible": reversibly})
    times |= seconds({"drawing": drawing, "Adam": lambda: optimizer.step()}, rounds=3)
    found = {name: 1e3 * time / (1 if name == "Adam" else batch) for name, time in times.items()}
    return found | {"FLOP": flops.get_total_flops() / batch, "bytes": traffic.bytes / batch, "operations": traffic.operations}


@torch.no_grad()
def chart(config: ModelConfig, batch: int) -> Row:
    """Milliseconds an image of the chart, whole and in parts, and the parameters of the model's parts."""
    torch.manual_seed(0)
    model, images = build(config), 2 * torch.rand(batch, *config.shape) - 1
    g = model.chart_at(DATA)
    g.initialize(images)
    convolutions, dense = (model.chart_at(DATA, part) for part in (model.encoder[:1], model.encoder[2:]))
    z, c = g(images), convolutions(images)
    forms = {"forward": lambda: g(images), "inverse": lambda: g.inverse(z), "dense": lambda: dense(c.flatten(1))}
    found = {name: 1e3 * time / batch for name, time in seconds(forms, rounds=3).items()}
    parts: dict[str, Iterable[nn.Module]] = {
        "parameters": [model],
        "of convolutions": model.encoder[:1],
        "of dense": model.encoder[2:],
        "of family": [model.family],
    }
    return found | {name: sum(p.numel() for part in some for p in part.parameters()) for name, some in parts.items()}


@torch.no_grad()
def operator(dim: int) -> Row:
    """The operator of many steps: seconds and MB to collapse them, bytes held, milliseconds to apply it to an image."""
    torch.manual_seed(0)
    family, z = shaken(dim, RANK), torch.randn(16, dim)
    propagator(shaken(64, 2), steps=2)  # which loads what the first call loads
    before = forget_peak()
    B = propagator(family, steps=STEPS)
    assert isinstance(B, LowRank | ScaledIdentityPlusLowRank)
    found: Row = {"MB": (resident() - before) / 1024, "held": size(*B.state_dict().values()), "rank": B.U.shape[-1]}
    times = seconds({"collapse": lambda: propagator(family, steps=STEPS), "apply": lambda: B(z)}, rounds=3)
    return found | {"collapse": times["collapse"], "apply": 1e3 * times["apply"] / len(z)}


@torch.no_grad()
def mixing(channels: int, side: int) -> Row:
    """Milliseconds of a 1x1 convolution of one image and of its inverse, which inverts its matrix anew."""
    g, x = Conv1x1((channels, side, side)), torch.randn(1, channels, side, side)
    return {name: 1e3 * t for name, t in seconds({"forward": lambda: g(x), "inverse": lambda: g.inverse(x)}, rounds=3).items()}


def measured(config: ModelConfig) -> Row:
    """Everything about one model."""
    batch = batch_of(config)
    found = alone(chart, config, batch) | alone(training, config, batch)
    for name, reversible in (("MB", False), ("MB, reversible", True)):
        form = replace(config, reversible=reversible)
        whole, half = (alone(peak, form, images)["MB"] for images in (batch, batch // 2))
        found[name] = (whole - half) / (batch - batch // 2)
    return found


def exponent(x: Sequence[float], y: Sequence[float]) -> str:
    """The power of x that y grows with, by least squares of the logarithms."""
    return f"{linear_regression([*map(math.log, x)], [*map(math.log, y)]).slope:.2f}" if len(x) > 1 else "-"


def short(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    print("", *("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)), sep="\n", flush=True)


def planned(row: Row) -> Row:
    """What the assumptions make of a model's figures: milliseconds of a step by each bound alone, and images a second by all."""
    own, weights = 2 ** min(7, int(math.log2(FILL / row["MB"]))), row["parameters"]
    bounds = {
        "compute, ms": 1e3 * own * row["FLOP"] / (UTILISATION * FLOPS),
        "traffic, ms": 1e3 * own * row["bytes"] / (TRAFFIC * BANDWIDTH),
        "launches, ms": 1e3 * row["operations"] * LAUNCH,
        "drawing, ms": own * row["drawing"],
    }
    batch, slowest, reduced = GPUS * own, max(bounds.values()), 1e3 * 2 * (GPUS - 1) / GPUS * 4 * weights / LINK
    found = {"images a GPU": own, "GB a GPU": (COPIES * weights + 4 * row["of family"]) / 1e9 + own * row["MB"] / 1e3, **bounds}
    step = slowest + reduced
    found |= {"all-reduce, ms": reduced, "images/s": 1e3 * batch / step, "times one GPU": GPUS * slowest / step}
    return found | {f"hours for {IMAGES / 1e6:.0f} M images": IMAGES * step / 1e3 / batch / 3600}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--channels", type=int, default=3)
    options = parser.parse_args()
    sides, C = options.sides, options.channels
    rows = [measured(config_of(C, side)) for side in sides]
    nets = measured(config_of(C, 64, conditioner="unet"))
    named = [*map(str, sides), "64, U-Nets"]
    pixels = [side**2 for side in sides]

    body = []
    for name, (key, unit) in FIGURES.items():
        values = [unit * row[key] for row in (*rows, nets)]
        body.append([name, *map(short, values), exponent(pixels, values[:-1])])
    markdown(["side", *named, "exponent in pixels"], body)
    dims = [C * count for count in pixels]
    found, columns = [alone(operator, dim) for dim in dims], {"collapse": 1.0, "MB": 1.0, "held": 1e-6, "apply": 1.0}
    body = []
    for n, row, model in zip(dims, found, rows, strict=True):
        shown = [short(unit * row[key]) for key, unit in columns.items()]
        share = row["apply"] / (row["apply"] + model["inverse"])
        body.append([f"{n:,}", short(row["rank"]), *shown, f"{share:.2%}", short(4e-6 * n * n)])
    body.append(["exponent in n", "", *(exponent(dims, [row[key] for row in found]) for key in columns), "", "2"])
    header = ["n", "rank of B", "collapse, s", "its peak, MB", "held, MB", "apply, ms", "share of a sample", "dense, MB"]
    markdown(header, body)
    halvings = [levels - (C > 1) for levels in (4, 5, 6)]
    widths = [(C * 4**k, max(1, max(sides) // 2**k)) for k in halvings]
    body = []
    for (width, side), row in zip(widths, starmap(mixing, widths), strict=True):
        body.append([f"{width}x{side}x{side}", short(width**2 / 1e6), short(row["forward"]), short(row["inverse"])])
    markdown(["1x1 convolution of", "parameters, M", "forward, ms", "inverse, ms"], body)
    plans = [planned(row) for row in (*rows, nets)]
    markdown([f"{GPUS} GPUs, side", *named], [[name, *(short(found[name]) for found in plans)] for name in plans[0]])


if __name__ == "__main__":
    main()
