"""One-step flow matching on vectors beside a neural spline flow and a diffusion model, at equal CPU time, in one process.

    python -m experiments.compare_vectors --seconds 60 --seeds 3

All are fitted by one loop (`applications.common.timed`: Adam, the same batches, learning rate, average of the weights, and rows
held out to choose the best weights), in turn, on one thread. They are judged by rows that none has seen, beside as many rows
trained on. The spline flow is zuko's with its defaults but for the conditioners: 64 hidden units twice, as in ours. It is
autoregressive; a row of n columns takes n passes. The diffusion model is of TabDDPM's kind (`experiments/diffusion.py`), has no
log p, and is sampled twice: ancestrally, and by DDIM in fewer steps.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, cast

import torch
import zuko
from torch import Tensor, nn

from applications.common.data import Tensors
from applications.common.data.source import Batch
from applications.common.data.table import EXAMPLES, Table
from applications.common.figures import corner
from applications.common.fitted import Fitted
from applications.common.metrics import classifier_test, energy_distance
from applications.common.randomness import Draws
from applications.common.timed import fit_for
from applications.common.training import Objective
from applications.flow_matching import fit_flow
from applications.flow_matching.evaluate import log_likelihood
from experiments.diffusion import TIMES, Denoiser, Denoising, NormalColumns

MOST: Final = 2000
"""Rows that choose the weights or judge a fit, at most."""
VALIDATION: Final = 10
"""One row in so many chooses the weights."""
FEW: Final = 20
"""Steps of DDIM."""
ENOUGH: Final = 2.0
"""Seconds of drawing that are timed."""
OURS: Final = "one-step flow matching"


class Likelihood(Objective):
    """A flow of zuko by likelihood."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.model: nn.Module = zuko.flows.NSF(columns, transforms=3, hidden_features=(64, 64))

    def draw(self, n: int, generator: torch.Generator) -> Draws:
        return {}

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        return {"loss": -self.model().log_prob(batch["rows"]).mean()}


class Fit(NamedTuple):
    """What a contender came to.

    Attributes:
        samplers: by what the table calls them, n -> n rows.
        fitted: steps and CPU seconds.
        log_prob: log p of rows, where the model has it.
    """

    samplers: dict[str, Callable[[int], Tensor]]
    fitted: Fitted
    log_prob: Callable[[Tensor], Tensor] | None


def ours(train: Table, seconds: float, seed: int) -> Fit:
    flow = fit_flow(train.rows, seconds=seconds, seed=seed)
    f, generator = flow.operator(), torch.Generator().manual_seed(seed)
    assert flow.fitted is not None
    return Fit(
        {OURS: lambda n: f(torch.randn(n, flow.dim, generator=generator))},
        flow.fitted,
        lambda x: log_likelihood(f, x.float()),
    )


def spline_flow(train: Table, seconds: float, seed: int) -> Fit:
    torch.manual_seed(seed)
    part, held_out = train.split(VALIDATION)
    std, mean = torch.std_mean(part.rows, 0)
    objective, rows = Likelihood(len(train.columns)), ((held_out.rows - mean) / std).float()[:MOST]
    source = Tensors("rows", {"rows": ((part.rows - mean) / std).float()})
    model, fitted = fit_for(
        objective, source, lambda average: -float(average().log_prob(rows).double().mean()), seconds=seconds, seed=seed
    )
    return Fit(
        {"zuko NSF": lambda n: model().sample((n,)).double() * std + mean},
        fitted,
        lambda x: model().log_prob(((x - mean) / std).float()).double() - std.log().sum(),
    )


def diffusion(train: Table, seconds: float, seed: int) -> Fit:
    torch.manual_seed(seed)
    part, held_out = train.split(VALIDATION)
    columns, objective, generator = NormalColumns(part.rows), Denoising(len(train.columns)), torch.Generator().manual_seed(seed)
    rows = columns(held_out.rows).repeat(-(-MOST // len(held_out.rows)), 1)[:MOST]
    noise, times = torch.randn(rows.shape, generator=generator), torch.randint(TIMES, (MOST,), generator=generator)
    source = Tensors("rows", {"rows": columns(part.rows)})
    average, fitted = fit_for(
        objective, source, lambda average: float(cast(Denoiser, average).loss(rows, noise, times)), seconds=seconds, seed=seed
    )
    model = cast(Denoiser, average)
    return Fit(
        {
            f"diffusion, {TIMES} steps": lambda n: columns.inverse(model.sample(n, TIMES, generator, ancestral=True)),
            f"diffusion, {FEW} of DDIM": lambda n: columns.inverse(model.sample(n, FEW, generator, ancestral=False)),
        },
        fitted,
        None,
    )


@torch.no_grad()
def judged(fit: Fit, sampler: Callable[[int], Tensor], held_out: Table) -> tuple[dict[str, float], Tensor]:
    """What held-out rows say of a fit, and samples."""
    real = held_out.rows[:MOST]
    samples = sampler(len(real)).double()
    times: list[float] = []
    while len(times) < 5 and sum(times) < ENOUGH:
        began = time.process_time()
        sampler(1000)
        times.append(time.process_time() - began)
    return {
        **({"nats": -float(fit.log_prob(real).double().mean())} if fit.log_prob else {}),
        "energy distance / 1000": 1000 * energy_distance(real, samples),
        "told apart / %": 100 * classifier_test(real, samples).accuracy,
        "1000 samples / ms": 1000 * median(times),
        "steps": float(fit.fitted.steps),
        "seconds": fit.fitted.seconds,
    }, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=list(EXAMPLES), default=list(EXAMPLES))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/vectors"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tables:
        train, held_out = EXAMPLES[name]().split()
        real, seen = held_out.rows[:MOST], train.rows[: min(MOST, len(held_out.rows))]
        told = 100 * classifier_test(real, seen).accuracy
        print(
            f"{name}: {len(train.rows)} rows to train on, {len(held_out.rows)} held out; rows trained on beside those: ", end=""
        )
        print(f"energy distance {1000 * energy_distance(real, seen):.2f} / 1000, told apart in {told:.1f} %", flush=True)
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(options.seeds):
            for contender in (ours, spline_flow, diffusion):
                fit = contender(train, options.seconds, seed)
                for which, sampler in fit.samplers.items():
                    figures, samples = judged(fit, sampler, held_out)
                    found.setdefault(which, []).append(figures)
                    if seed == 0 and which == OURS:
                        corner(options.out / f"{name}.png", {"data": real, "samples": samples}, train.columns)
        for which, rows in found.items():
            middle = {key: median(row[key] for row in rows) for key in rows[0]}
            print(f"  {which:<24}" + "  ".join(f"{key} {value:.4g}" for key, value in middle.items()), flush=True)
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
