"""What a trained model is measured by: laws, one step against many, inversion, spectrum, time."""

import copy
import math
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import cast

import torch
from torch import Tensor

from applications.common.data import to_unit
from applications.common.metrics import psnr
from applications.flow_matching.model import DATA, NOISE, FlowMatching, Method
from applications.flow_matching.sampling import encode, noise
from induced import InducedSpace, Linearizer
from induced.checks import Report, check_adjoint, check_bijection, check_linear, check_penrose, check_space, check_svd
from induced.checks.measure import compare, longest, noises, not_applicable
from induced.operators import slogdet
from induced.precision import full_precision

METHODS: tuple[Method, ...] = ("euler", "rk4")
TIMED = 64
"""Images of a batch whose drawing is timed."""
STAGES = 4
"""Of a Runge-Kutta step, each of which rounds."""


def in_dtype(model: FlowMatching, dtype: torch.dtype) -> FlowMatching:
    """A copy of the model in another precision."""
    return copy.deepcopy(model).to(dtype)


def axioms(model: FlowMatching, points: Tensor, *, steps: int = 100) -> dict[str, list[Report]]:
    """Every law on the trained model, at data points and noise, in float32 and float64: the library's, and `promises`.

    Arguments:
        points: data points (k, *shape); as many points of noise are drawn.
        steps: steps that the operator collapses.

    Returns:
        Reports by dtype name; each names its part of the model.
    """
    results = {}
    for dtype in (torch.float32, torch.float64):
        m = in_dtype(model, dtype)
        x0 = noise(m, len(points), seed=1)
        x1 = points.to(x0)
        f = m.operator(steps)
        drawn = [*check_linear(f, x0), *check_adjoint(f, x0, x1), *check_penrose(f, x0, x1)]
        parts = {
            "chart of the noise": check_bijection(m.chart_at(NOISE), x0),
            "chart of the data": check_bijection(m.chart_at(DATA), x1),
            "space of the noise": check_space(f.domain, x0),
            "space of the data": check_space(f.codomain, x1),
            "map": [*drawn, *check_svd(f, rank=min(8, *f.core.shape))],
            "promises": promises(m, f, x0, x1, steps),
        }
        results[str(dtype).removeprefix("torch.")] = [replace(row, part=part) for part, rows in parts.items() for row in rows]
    return results


@torch.no_grad()
def promises(model: FlowMatching, f: Linearizer, x0: Tensor, x1: Tensor, steps: int) -> list[Report]:
    """What the model adds to the laws of a Linearizer: one step is the many (eq. 17), points are encoded and decoded, and columns
    of vectors are standardised and put back.

    Arguments:
        f: the operator of so many steps.
        x0, x1: noise and data points.
    """
    X, Y = f.domain, f.codomain
    z0, z1 = X.coords(x0), Y.coords(x1)
    collapsed, stepped = f.core(z0), model.transport(z0, steps)
    size, terms = max(longest(z0), longest(stepped)), math.sqrt(model.dim)
    found = [compare("one step is the many", "eq. 17", collapsed - stepped, size, (STAGES * steps + terms) * size, x0)]
    law, cond = "f(f^-1(x)) = x", float(f.cond())
    if cond < 1 / torch.finfo(x1.dtype).eps:
        codes = encode(f, x1)
        decoded = f(codes)
        (at_codes,), (at_x1, at_decoded) = noises(X, codes), noises(Y, x1, decoded)
        error = at_x1 + at_decoded + float(f.norm()) * at_codes + cond * terms * longest(z1)
        found.append(compare(law, "section 5", Y.coords(decoded) - z1, longest(z1), error, x1))
    else:
        found.append(not_applicable(law, "section 5", f"B has the condition number {cond:.2g}, and no inverse in {x1.dtype}"))
    if model.config.vectors:
        standardised = check_bijection(model.chart_at(DATA, model.encoder), x1)
        found += [replace(report, law=f"columns standardised: {report.law}") for report in standardised]
    return found


@dataclass(frozen=True)
class OneStep:
    """One step against T steps.

    Attributes:
        dtype, method, steps: what was compared.
        latent_error: |B z - z_T| / |z_T| over the batch, 0 where both are exactly 0.
        image_psnr: PSNR in dB of the one-step against the multi-step images, mean over the batch; inf where equal.
        condition: singular values of B, largest over smallest.
    """

    dtype: str
    method: str
    steps: int
    latent_error: float
    image_psnr: float
    condition: float


def one_step(model: FlowMatching, *, counts: tuple[int, ...] = (1, 10, 100), batch: int = 64) -> list[OneStep]:
    """The one-step sampler beside the T-step sampler, for Euler and RK4, in float32 and float64."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        m = in_dtype(model, dtype)
        x0 = noise(m, batch, seed=2)
        z0 = m.space(NOISE).coords(x0)
        for method in METHODS:
            for steps in counts:
                f = m.operator(steps, method)
                collapsed, stepped = f.core(z0), m.transport(z0, steps, method)
                difference, size = float((collapsed - stepped).norm()), float(stepped.norm())
                quality = psnr(f(x0), m.multi_step(x0, steps, method)).mean()
                values = f.svd().values
                rows.append(
                    OneStep(
                        str(dtype).removeprefix("torch."),
                        method,
                        steps,
                        difference / size if difference else 0.0,
                        float(quality),
                        float(values[0] / values[-1]) if values[-1] > 0 else float("inf"),
                    )
                )
    return rows


def convergence_order(model: FlowMatching, method: Method, steps: tuple[int, ...] = (200, 400, 800)) -> float:
    """Order of convergence of an integrator on the trained family, in float64, against RK4 with eight times the steps."""
    m = in_dtype(model, torch.float64)
    z0 = m.space(NOISE).coords(noise(m, 16, seed=3))
    exact = m.transport(z0, 8 * steps[-1])
    errors = [float((m.transport(z0, n, method) - exact).norm()) for n in steps]
    return float(torch.log2(torch.tensor(errors[0] / errors[-1])) / torch.log2(torch.tensor(steps[-1] / steps[0])))


@dataclass(frozen=True)
class Inversion:
    """x -> f+(x) -> f(f+(x)) on held-out images.

    Attributes:
        psnr_mean, psnr_min: PSNR in dB of f(f+(x)) against x, over the images.
        encoding_std: standard deviation of the encodings f+(x); noise has 1.
        count: how many images.
    """

    psnr_mean: float
    psnr_min: float
    encoding_std: float
    count: int


def inversion(f: Linearizer, images: Tensor) -> Inversion:
    """Encode and decode images with the pseudoinverse."""
    encodings = encode(f, images)
    quality = psnr(f(encodings), images)
    return Inversion(float(quality.mean()), float(quality.min()), float(encodings.std()), len(images))


@full_precision()
def log_likelihood(f: Linearizer, x: Tensor) -> Tensor:
    """log p(x) (k,) of the density of f(x_0), x_0 ~ N(0, I), in nats, for the one-step operator f of a model or of a class.

    log p(x) = log N(x_0; 0, I) + log|det J_g1(x)| - log|det B| - log|det J_g0(x_0)| at x_0 = f^-1(x).
    """
    x0 = encode(f, x)
    _, log_det_B = slogdet(f.core)
    data, start = cast(InducedSpace, f.codomain).chart, cast(InducedSpace, f.domain).chart
    volume1, volume0 = data.log_abs_det(x), start.log_abs_det(x0)
    prior = -(x0.flatten(1) ** 2 + math.log(2 * math.pi)).sum(1) / 2
    return prior + volume1 - log_det_B - volume0


def bits_per_dimension(f: Linearizer, images: Tensor, u: Tensor) -> Tensor:
    """-log2 p(v) / D (k,) for bytes v, from dequantised images x = 2 (v + u) / 256 - 1: an upper bound on average over u.

    Arguments:
        f: the one-step operator of a model.
        images: uint8 (k, C, H, W).
        u: in [0, 1), of the shape of the padded images; D counts the padding.
    """
    x = to_unit(images, u).to(f.device)
    D = math.prod(x.shape[1:])
    return -(log_likelihood(f, x) / D + math.log(2 / 256)) / math.log(2)


def timing(model: FlowMatching, *, batch: int = TIMED, repeats: int = 3) -> dict[str, float]:
    """Median seconds for one batch, in one process, of each way to draw it; forming B, the collapse, is not part of a sample.

    Of the 100 Euler steps, each of which leaves and enters the chart as a map x -> x would, 5 are timed.
    """
    f, x0 = model.operator(100), noise(model, batch, seed=4)
    space = model.space(DATA)

    def seconds(action: Callable[[], object]) -> float:
        def whole() -> None:
            action()
            x0.flatten()[0].item()  # waits for the device

        whole()
        return median(timeit.repeat(whole, number=1, repeat=repeats))

    return {
        "one step": seconds(lambda: f(x0)),
        "100 RK4 steps in coordinates": seconds(lambda: model.multi_step(x0, 100)),
        "100 Euler steps through the charts": 20 * seconds(lambda: [space.point(f.core(space.coords(x0))) for _ in range(5)]),
        "collapsing 100 RK4 steps, once": seconds(lambda: model.operator(100)),
    }
