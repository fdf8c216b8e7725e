"""Coupling charts beside FrEIA, normflows, nflows and zuko: speed, splines, inversion under stress, memory of training.

Every chart has 8 couplings with conditioners d/2 -> 128 -> 128 -> outputs (SiLU) and meets 1024 points in float32. Times are
multiples of the floor: what the same 8 conditioners cost alone, each applied to a half of the points; in a training step with
the gradients for their parameters and for their input, as in a chain. Peers that are not installed are left out
(`pip install -e '.[adapters]'`).
"""

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from common import seconds, table
from torch import Tensor, nn

from induced.bijections import (
    MLP,
    AdditiveCoupling,
    Bijection,
    Composition,
    Coupling,
    RationalQuadraticCoupling,
    Reversible,
    UNet,
    glow,
    real_nvp,
    rounding,
)
from induced.bijections.conditioners import START

BATCH, WIDTH, COUPLINGS, BINS = 1024, 128, 8, 8
Map = Callable[[Tensor], Tensor]


@dataclass
class Form:
    """A chart of some library, both ways."""

    name: str
    module: nn.Module
    forward: Map
    inverse: Map


Build = Callable[[int], Form]


def plain(inputs: int, outputs: int) -> nn.Module:
    """The conditioner in the peers: MLP(inputs, outputs, WIDTH) as torch initialises it."""
    layers = [nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs)]
    return nn.Sequential(*layers)


def ours(name: str, chart: Bijection) -> Form:
    return Form(name, chart, chart, chart.inverse)


def with_plain_start(chart: Composition) -> Composition:
    """The chart with its conditioners as large as torch initialises them."""
    with torch.no_grad():
        for part in chart.parts:
            part.conditioner.last.weight /= START
    return chart


def additive(d: int) -> Composition:
    halves = ((d // 2, d - d // 2), (d - d // 2, d // 2))
    return Composition(
        *(AdditiveCoupling((d,), MLP(*halves[k % 2], WIDTH), flip=bool(k % 2)) for k in range(COUPLINGS)),
    )


def spline(d: int) -> Composition:
    parts = (MLP(d // 2, (3 * BINS - 1) * (d // 2), WIDTH) for _ in range(COUPLINGS))
    return Composition(
        *(RationalQuadraticCoupling((d,), part, flip=bool(k % 2), bins=BINS) for k, part in enumerate(parts)),
    )


class WithoutContext(nn.Module):
    """What nflows calls a conditioner: it is handed a context."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: object = None) -> Tensor:
        out: Tensor = self.net(x)
        return out


def chain(
    name: str, module: nn.Module, forward: Sequence[Callable[[Tensor], Any]], inverse: Sequence[Callable[[Tensor], Any]]
) -> Form:
    """Steps that return (value, log-determinant), applied one after the other."""

    def run(steps: Sequence[Callable[[Tensor], Any]], x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)[0]
        return x

    return Form(name, module, lambda x: run(forward, x), lambda z: run(inverse[::-1], z))


def freia(d: int) -> Form:
    blocks = nn.ModuleList(
        import_module("FrEIA.modules").GLOWCouplingBlock([(d,)], subnet_constructor=plain) for _ in range(COUPLINGS // 2)
    )
    forward = [lambda x, block=block: block([x])[0] for block in blocks]
    inverse = [lambda z, block=block: block([z], rev=True)[0] for block in blocks]
    return chain("FrEIA GLOW", blocks, forward, inverse)


def normflows(d: int) -> Form:
    flows = import_module("normflows.flows")
    halves = ("channel", "channel_inv")
    blocks = nn.ModuleList(flows.AffineCouplingBlock(plain(d // 2, d), split_mode=halves[k % 2]) for k in range(COUPLINGS))
    return chain("normflows RealNVP", blocks, list(blocks), [block.inverse for block in blocks])


def nflows(d: int, *, splines: bool = False) -> Form:
    couplings = import_module("nflows.transforms.coupling")
    keywords = {"num_bins": BINS, "tails": "linear", "tail_bound": 4.0} if splines else {}
    kind = couplings.PiecewiseRationalQuadraticCouplingTransform if splines else couplings.AffineCouplingTransform
    blocks = nn.ModuleList(
        kind((torch.arange(d) + k) % 2, lambda i, o: WithoutContext(plain(i, o)), **keywords) for k in range(COUPLINGS)
    )
    return chain("nflows", blocks, list(blocks), [block.inverse for block in blocks])


def zuko(d: int, *, splines: bool = False) -> Form:
    flows, transforms = import_module("zuko.flows"), import_module("zuko.transforms")
    univariate = {"univariate": transforms.MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]} if splines else {}
    flow = flows.RealNVP(d, transforms=COUPLINGS, hidden_features=(WIDTH, WIDTH), activation=nn.SiLU, **univariate)
    return Form("zuko", flow, lambda x: flow.transform()(x), lambda z: flow.transform().inv(z))


PEERS = {"FrEIA": freia, "normflows": normflows, "nflows": nflows, "zuko": zuko}
SPLINE_PEERS = {"nflows": partial(nflows, splines=True), "zuko": partial(zuko, splines=True)}
STRESSED: dict[str, Build] = {
    "real_nvp": lambda d: ours("real_nvp", real_nvp(d, COUPLINGS, WIDTH)),
    "  peers' start": lambda d: ours("", with_plain_start(real_nvp(d, COUPLINGS, WIDTH))),
    "  peers' start, max_log_scale=0.5": lambda d: ours("", with_plain_start(real_nvp(d, COUPLINGS, WIDTH, max_log_scale=0.5))),
    "  peers' start, additive": lambda d: ours("", with_plain_start(additive(d))),
}


def installed(peers: Mapping[str, Build]) -> dict[str, Build]:
    return {package: build for package, build in peers.items() if find_spec(package)}


def floor(chart: Composition, x: Tensor) -> Callable[[], list[Tensor]]:
    """The conditioners alone, each on the half that it sees."""
    first = chart.shape[0] // 2
    halves = {False: x[:, :first].clone().requires_grad_(), True: x[:, first:].clone().requires_grad_()}
    parts = [part for part in chart.parts if isinstance(part, Coupling)]
    return lambda: [part.conditioner(halves[part.flip]) for part in parts]


def training(run: Callable[[], list[Tensor]], module: nn.Module) -> Callable[[], None]:
    """A pass and its gradients, for a loss without cost of its own."""
    cotangents = [torch.ones_like(y) for y in run()]

    def step() -> None:
        module.zero_grad()
        torch.autograd.backward(run(), cotangents)

    return step


def speed(title: str, chart: Composition, forms: Sequence[Form]) -> None:
    """Each form both ways and in a training step, as multiples of the floor."""
    x = torch.randn(BATCH, chart.shape[0])
    alone = floor(chart, x)
    with torch.no_grad():
        forward = seconds({"": alone} | {f.name: lambda f=f: f.forward(x) for f in forms}, rounds=9)
        inverse = seconds({"": alone} | {f.name: lambda f=f: f.inverse(x) for f in forms}, rounds=9)
    steps = {f.name: training(lambda f=f: [f.forward(x)], f.module) for f in forms}
    train = seconds({"": training(alone, chart)} | steps, rounds=9)
    columns = (forward, inverse, train)
    rows = [[f.name, *(f"{times[f.name] / times['']:.2f}" for times in columns)] for f in forms]
    per_second = [f"{BATCH / times[''] / 1e3:.3g}k/s" for times in columns]
    table(title, ["", "forward", "inverse", "training"], [["floor", *per_second], *rows])


def stress(d: int) -> None:
    """The worst entry of |g^-1(g(x)) - x|, all parameters scaled; with the certificate's eps * rounding(g, x) for ours."""
    rows = []
    for name, build in (STRESSED | installed(PEERS)).items():
        cells = [round_trip(build, d, dtype, scale) for dtype in (torch.float32, torch.float64) for scale in (1, 1.5, 2, 3)]
        rows.append([name, *cells])
    header = [f"{bits} x{scale}" for bits in ("fp32", "fp64") for scale in (1, 1.5, 2, 3)]
    table(f"round trip, d = {d}: worst error (what the certificate says)", ["", *header], rows)


def round_trip(build: Build, d: int, dtype: torch.dtype, scale: float) -> str:
    torch.manual_seed(0)
    form, x = build(d), torch.randn(BATCH, d).to(dtype)
    form.module.to(dtype)
    with torch.no_grad():
        for p in form.module.parameters():
            p *= scale
        cell = f"{float((form.inverse(form.forward(x)) - x).abs().max()):.0e}"
    certified = isinstance(form.module, Bijection)
    return f"{cell} ({rounding(form.module, x) * torch.finfo(dtype).eps:.0e})" if certified else cell


class Held:
    """Memory that autograd holds: bytes of activations saved now, and the most there were."""

    def __init__(self, module: nn.Module) -> None:
        self.now = self.peak = 0
        self.parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def keep(self, tensor: Tensor) -> "Kept":
        return Kept(self, tensor)


class Kept:
    """A saved tensor that is counted while autograd holds it."""

    def __init__(self, held: Held, tensor: Tensor) -> None:
        self.held, self.tensor = held, tensor
        self.size = 0 if tensor.untyped_storage().data_ptr() in held.parameters else tensor.numel() * tensor.element_size()
        held.now += self.size
        held.peak = max(held.peak, held.now)

    def __del__(self) -> None:
        self.held.now -= self.size


def training_memory(depth: int) -> list[str]:
    """A training step on the density, with and without recomputation."""
    chart, x = real_nvp(64, depth, WIDTH), torch.randn(BATCH, 64)

    def step(form: Bijection) -> None:
        chart.zero_grad()
        z, log_det = form.forward_and_log_abs_det(x)
        (z.square().sum() / 2 - log_det.sum()).backward()

    peaks, gradients = [], []
    for form in (chart, Reversible(chart)):
        held = Held(chart)
        with torch.autograd.graph.saved_tensors_hooks(held.keep, lambda kept: kept.tensor):
            step(form)
        peaks.append(f"{held.peak / 2**20:.1f} MiB")
        gradients.append(torch.cat([p.grad.flatten() for p in chart.parameters()]))
    times = seconds({"kept": lambda: step(chart), "recomputed": lambda: step(Reversible(chart))})
    difference = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    return [str(depth), *peaks, f"{times['recomputed'] / times['kept']:.2f} x", f"{difference:.0e}"]


def images(shape: tuple[int, int, int], batch: int, width: Sequence[int], *, autocast: bool = False) -> list[str]:
    """A glow of U-Nets both ways and in a training step, beside its conditioners alone, each on images like those it sees."""
    torch.manual_seed(0)
    chart, x = glow(shape, 2 * len(width), width, levels=len(width), conditioner=UNet), torch.randn(batch, *shape)
    chart.to(memory_format=torch.channels_last)
    chart.initialize(x)
    nets = [part.conditioner for part in chart.parts if isinstance(part, Coupling)]
    halves = [torch.randn(batch, *net.shape, requires_grad=True) for net in nets]

    def density() -> list[Tensor]:
        z, log_det = chart.forward_and_log_abs_det(x)
        return [z, log_det]

    def alone() -> list[Tensor]:
        return [net(half) for net, half in zip(nets, halves, strict=True)]

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with torch.no_grad():
            z = chart(x)
            error = float((chart.inverse(z) - x).abs().max())
            passes = seconds({"floor": alone, "forward": lambda: chart(x), "inverse": lambda: chart.inverse(z)}, rounds=3)
        train = seconds({"floor": training(alone, chart), "training": training(density, chart)}, rounds=3)
    times = [(passes[way], passes["floor"]) for way in ("forward", "inverse")] + [(train["training"], train["floor"])]
    cells = [f"{batch / time:.3g}/s ({time / least:.2f} x)" for time, least in times]
    precision = "bf16" if autocast else "fp32"
    size = sum(p.numel() for p in chart.parameters()) / 1e6
    return [f"{shape}, {precision}", f"{size:.2f} M", *cells, f"{error:.0e}"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", help="some of: speed splines stress memory images; all by default")
    wanted = parser.parse_args().tables or ["speed", "splines", "stress", "memory", "images"]
    warnings.simplefilter("ignore")
    if "speed" in wanted:
        for d in (2, 64, 784):
            chart = real_nvp(d, COUPLINGS, WIDTH)
            speed(f"affine couplings, d = {d}", chart, [ours("real_nvp", chart), *(f(d) for f in installed(PEERS).values())])
    if "splines" in wanted:
        for d in (2, 64):
            chart = spline(d)
            others = [build(d) for build in installed(SPLINE_PEERS).values()]
            speed(f"rational-quadratic splines, d = {d}", chart, [ours("RationalQuadraticCoupling", chart), *others])
    if "stress" in wanted:
        for d in (2, 64, 784):
            stress(d)
    if "memory" in wanted:
        header = ["couplings", "activations kept", "Reversible", "its time", "gradients differ by"]
        rows = [training_memory(depth) for depth in (4, 16, 64)]
        table("training step of real_nvp(64), peak of what autograd saves", header, rows)
    if "images" in wanted:
        rows = [
            images(shape, batch, width, autocast=autocast)
            for shape, batch, width in (((1, 32, 32), 64, (16, 24)), ((3, 64, 64), 8, (16, 24, 32)))
            for autocast in (False, True)
        ]
        header = ["2 blocks a level", "parameters", "forward", "inverse", "training", "round trip"]
        table("glow of U-Nets, images a second (multiples of the conditioners alone)", header, rows)


if __name__ == "__main__":
    main()
