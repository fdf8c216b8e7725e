"""Coupling charts beside FrEIA, normflows, nflows and zuko: speed, splines, inversion under stress, memory of training.

Every chart has 8 couplings with conditioners d/2 -> 128 -> 128 -> outputs (SiLU) and meets 1024 points in float32. The floor is
what the same 8 conditioners cost alone, each applied to a half of the points; in a training step with the gradients for their
parameters and for their input, as in a chain. The oracle is the same chart in float64.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common import judge, measure, pick, relative, require
from induced.bijections import (
    AdditiveCoupling,
    Bijection,
    Composition,
    RationalQuadraticCoupling,
    Reversible,
    glow,
    real_nvp,
    roundtrip,
)
from induced.bijections.coupling import Coupling
from induced.bijections.networks import MLP, UNet
from induced.bijections.networks.mlp import START

BATCH, WIDTH, COUPLINGS, BINS = pick(1024, 32), pick(128, 16), 8, 8
SCALES = (1, 1.5, 2, 3)
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
            assert isinstance(part, Coupling) and isinstance(part.conditioner, MLP)
            part.conditioner.last.weight.div_(START)
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
    blocks: Any = nn.ModuleList(
        import_module("FrEIA.modules").GLOWCouplingBlock([(d,)], subnet_constructor=plain) for _ in range(COUPLINGS // 2)
    )
    forward = [lambda x, block=block: block([x])[0] for block in blocks]
    inverse = [lambda z, block=block: block([z], rev=True)[0] for block in blocks]
    return chain("FrEIA GLOW", blocks, forward, inverse)


def normflows(d: int) -> Form:
    flows = import_module("normflows.flows")
    halves = ("channel", "channel_inv")
    blocks: Any = nn.ModuleList(flows.AffineCouplingBlock(plain(d // 2, d), split_mode=halves[k % 2]) for k in range(COUPLINGS))
    return chain("normflows RealNVP", blocks, list(blocks), [block.inverse for block in blocks])


def nflows(d: int, *, splines: bool = False) -> Form:
    couplings = import_module("nflows.transforms.coupling")
    keywords = {"num_bins": BINS, "tails": "linear", "tail_bound": 4.0} if splines else {}
    kind = couplings.PiecewiseRationalQuadraticCouplingTransform if splines else couplings.AffineCouplingTransform
    blocks: Any = nn.ModuleList(
        kind((torch.arange(d) + k) % 2, lambda i, o: WithoutContext(plain(i, o)), **keywords) for k in range(COUPLINGS)
    )
    return chain("nflows", blocks, list(blocks), [block.inverse for block in blocks])


def zuko(d: int, *, splines: bool = False) -> Form:
    flows, transforms = import_module("zuko.flows"), import_module("zuko.transforms")
    univariate = {"univariate": transforms.MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]} if splines else {}
    flow = flows.RealNVP(d, transforms=COUPLINGS, hidden_features=(WIDTH, WIDTH), activation=nn.SiLU, **univariate)
    return Form("zuko", flow, lambda x: flow.transform()(x), lambda z: flow.transform().inv(z))


INDUCED, FLOOR = "induced", "the conditioners alone"
AFFINE: dict[str, Build] = {
    INDUCED: lambda d: ours("induced", real_nvp(d, COUPLINGS, WIDTH)),
    "FrEIA": freia,
    "normflows": normflows,
    "nflows": nflows,
    "zuko": zuko,
}
SPLINES: dict[str, Build] = {
    INDUCED: lambda d: ours("induced", spline(d)),
    "nflows": partial(nflows, splines=True),
    "zuko": partial(zuko, splines=True),
}
STRESSED: dict[str, Build] = {
    "induced": AFFINE[INDUCED],
    "induced, peers' start": lambda d: ours("", with_plain_start(real_nvp(d, COUPLINGS, WIDTH))),
    "induced, peers' start, max_log_scale=0.5": lambda d: ours(
        "", with_plain_start(real_nvp(d, COUPLINGS, WIDTH, max_log_scale=0.5))
    ),
    "induced, peers' start, additive": lambda d: ours("", with_plain_start(additive(d))),
    **{name: build for name, build in AFFINE.items() if name != INDUCED},
}


@lru_cache(2)
def built(kind: str, name: str, d: int) -> Form:
    """A chart, the same one for each of its rows."""
    torch.manual_seed(0)
    return {"affine": AFFINE, "spline": SPLINES}[kind][name](d)


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


def passes(forms: Mapping[str, Callable[[], list[Tensor]]], module: nn.Module) -> dict[str, Callable[[], object]]:
    """Those forms without gradients but for the one called "training"."""

    def without(form: Callable[[], list[Tensor]]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return form()

        return run

    return {way: training(form, module) if way == "training" else without(form) for way, form in forms.items()}


def ways(form: Form, x: Tensor) -> dict[str, Callable[[], object]]:
    """The rows of a chart."""
    maps = {"forward": lambda: [form.forward(x)], "inverse": lambda: [form.inverse(x)], "training": lambda: [form.forward(x)]}
    return passes(maps, form.module)


def allowed(exact: Map, x: Tensor, layers: int) -> float:
    """Ten times what rounding may do to a map in float32, relative: a layer rounds four times, in three matrices and once more.

    A sum of m numbers rounds by sqrt(m) eps; the map amplifies that as it does small random changes, in float64.
    """
    change = 1e-6 * torch.randn_like(x)
    with torch.no_grad():
        there, near = exact(x), exact(x + change)
        amplified = float(((near - there).norm(dim=-1) / change.norm(dim=-1)).max())
        factor = max(1.0, amplified) * float(x.norm() / there.norm())
    return 10 * torch.finfo(torch.float32).eps * 4 * layers * max(x.shape[-1], WIDTH) ** 0.5 * factor


SPEED = [
    (kind, d, way, name)
    for kind, builds, dims in (("affine", AFFINE, pick((2, 64, 784), (2, 8))), ("spline", SPLINES, pick((2, 64), (4,))))
    for d in dims
    for name in (*builds, FLOOR)
    for way in ("forward", "inverse", "training")
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "d", "way", "name"), SPEED)
def bench_speed(benchmark: Any, kind: str, d: int, way: str, name: str) -> None:
    x, mine = torch.randn(BATCH, d), built(kind, INDUCED, d)
    facts: dict[str, Any] = {"table": f"8 {kind} couplings, {BATCH} points", "row": f"{way}, d = {d}", "form": name}
    own = None if name == INDUCED else ways(mine, x)[way]
    if name == FLOOR:
        assert isinstance(mine.module, Composition)
        alone = floor(mine.module, x)
        measure(benchmark, passes({way: alone}, mine.module)[way], own, peer=False, **facts)
        return
    require(name)
    form = built(kind, name, d)
    measure(benchmark, ways(form, x)[way], own, **facts)
    backwards = way == "inverse"
    precise = copy_of(kind, name, d)
    with torch.no_grad():
        found = form.inverse(x) if backwards else form.forward(x)
        exact = precise.inverse if backwards else precise.forward
        judge(benchmark, found, exact(x.double()), allowed(exact, x.double(), COUPLINGS))


def copy_of(kind: str, name: str, d: int) -> Form:
    """The same chart in float64."""
    form = built.__wrapped__(kind, name, d)
    form.module.load_state_dict(copy.deepcopy(built(kind, name, d).module.state_dict()))
    form.module.double()
    return form


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("d", "name"), [(d, name) for d in pick((2, 64, 784), (8,)) for name in STRESSED])
def bench_round_trip(benchmark: Any, d: int, name: str) -> None:
    """There and back, and the worst entry of g^-1(g(x)) - x with all parameters scaled; ours within what the chart certifies."""
    if not name.startswith(INDUCED):
        require(name)
    x, errors, certified = torch.randn(BATCH, d), dict[str, float](), []
    for dtype in (torch.float32, torch.float64):
        for scale in SCALES:
            form = stressed(name, d, dtype, scale)
            errors[f"{str(dtype)[6:]}, x {scale:g}"] = float((form.inverse(form.forward(x.to(dtype))) - x.to(dtype)).abs().max())
            if isinstance(form.module, Bijection):
                certified.append(roundtrip(form.module, x.to(dtype)))
    mine, form = (stressed(which, d, torch.float32, 1) for which in (INDUCED, name))
    own = None if name == INDUCED else lambda: mine.inverse(mine.forward(x))
    facts: dict[str, Any] = {"table": "there and back", "row": f"d = {d}", "form": name, "peer": not name.startswith(INDUCED)}
    measure(benchmark, lambda: form.inverse(form.forward(x)), own, errors=errors, **facts)
    assert all(c.ok or c.predicted > 1e-2 for c in certified), (
        certified
    )  # beyond that an amplification of first order says nothing


def stressed(name: str, d: int, dtype: torch.dtype, scale: float) -> Form:
    """A chart with its parameters scaled."""
    torch.manual_seed(0)
    form = STRESSED[name](d)
    form.module.to(dtype)
    for p in form.module.parameters():
        p.mul_(scale)
    return form


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


@pytest.mark.parametrize("form", [INDUCED, "activations kept"])
@pytest.mark.parametrize("depth", pick((4, 8, 16, 32, 64), (2, 4, 8)))
def bench_training_memory(benchmark: Any, depth: int, form: str) -> None:
    """A training step on the density, with recomputation by inversion and without; its gradients beside those in float64."""
    torch.manual_seed(0)
    chart, x = real_nvp(64, depth, WIDTH), torch.randn(BATCH, 64)

    def step(form: Bijection, x: Tensor = x) -> None:
        form.zero_grad()
        z, log_det = form.forward_and_log_abs_det(x)
        (z.square().sum() / 2 - log_det.sum()).backward()

    def gradients(form: nn.Module) -> Tensor:
        return torch.cat([p.grad.flatten() for p in form.parameters() if p.grad is not None])

    recomputed = Reversible(chart)
    chosen: Bijection = recomputed if form == INDUCED else chart
    held = Held(chart)
    with torch.autograd.graph.saved_tensors_hooks(held.keep, lambda kept: kept.tensor):
        step(chosen)
    found, precise = gradients(chart), copy.deepcopy(chart).double()
    step(precise, x.double())
    facts: dict[str, Any] = {
        "table": f"a training step of real_nvp(64), {BATCH} points",
        "row": f"{depth} couplings",
        "form": form,
    }
    growth: dict[str, Any] = {"x": depth, "axis": "couplings", "theory": 1.0, "memory_theory": 0.0 if form == INDUCED else 1.0}
    own = None if form == INDUCED else lambda: step(recomputed)
    measure(benchmark, lambda: step(chosen), own, bytes=held.peak, **facts, **growth)
    judge(benchmark, found, gradients(precise), allowed(precise, x.double(), 3 * depth))


IMAGES = pick((((1, 32, 32), 64, (16, 24)), ((3, 64, 64), 8, (16, 24, 32))), (((1, 8, 8), 4, (4,)),))


@pytest.mark.parametrize("form", [INDUCED, FLOOR])
@pytest.mark.parametrize("way", ["forward", "inverse", "training"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "batch", "width"), IMAGES, ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
)
def bench_images(
    benchmark: Any, shape: tuple[int, int, int], batch: int, width: Sequence[int], autocast: bool, way: str, form: str
) -> None:
    """A glow of U-Nets both ways and in a training step on the density, beside its conditioners alone on images like theirs."""
    torch.manual_seed(0)
    chart, x = glow(shape, 2 * len(width), width, levels=len(width), conditioner=UNet), torch.randn(batch, *shape)
    chart.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    chart.initialize(x)
    nets: list[Any] = [part.conditioner for part in chart.parts if isinstance(part, Coupling)]
    halves = [torch.randn(batch, *net.shape, requires_grad=True) for net in nets]
    z = chart(x).detach()
    maps = {
        "forward": lambda: [chart(x)],
        "inverse": lambda: [chart.inverse(z)],
        "training": lambda: [*chart.forward_and_log_abs_det(x)],
    }
    alone = {way: lambda: [net(half) for net, half in zip(nets, halves, strict=True)]}
    size = "x".join(map(str, shape))
    facts: dict[str, Any] = {
        "table": "glow of U-Nets",
        "row": f"{way}, {batch} of {size}, {'bfloat16' if autocast else 'float32'}",
        "form": form,
    }
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        own = passes(maps, chart)[way]
        if form == FLOOR:
            measure(benchmark, passes(alone, chart)[way], own, peer=False, **facts)
            return
        measure(benchmark, own, **facts)
        with torch.no_grad():
            back = chart.inverse(chart(x))
    if way == "inverse" and autocast:  # whose rounding the amplification does not know
        benchmark.extra_info["error"] = relative(back, x)
    elif way == "inverse":
        judge(benchmark, back, x, 10 * roundtrip(chart, x).predicted * batch**0.5 / float(x.norm()))
