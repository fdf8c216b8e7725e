"""One-step flow matching on vectors beside a neural spline flow of zuko, at equal CPU time, in one process.

    python -m experiments.compare_vectors --seconds 60 --seeds 3

Both are fitted by one loop (`applications.common.timed`: Adam, the same batches, learning rate, average of the weights, and rows
held out to choose the best weights), in turn, on one thread. They are judged by rows that neither has seen, beside as many rows
trained on. zuko's flow has its defaults but for the conditioners: 64 hidden units twice, as in ours. It is autoregressive; a row
of n columns takes n passes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

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

MOST = 2000
VALIDATION = 10


class Likelihood(Objective):
    """A flow of zuko by likelihood."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.model: nn.Module = zuko.flows.NSF(columns, transforms=3, hidden_features=(64, 64))

    def draw(self, n: int, generator: torch.Generator) -> Draws:
        return {}

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        return {"loss": -self.model().log_prob(batch["rows"]).mean()}


Fit = tuple[Callable[[int], Tensor], Callable[[Tensor], Tensor], int, float]
"""A sampler, log p of rows, steps, and CPU seconds of the fit."""


def ours(train: Table, seconds: float, seed: int) -> Fit:
    flow = fit_flow(train.rows, seconds=seconds, seed=seed)
    f, generator = flow.operator(), torch.Generator().manual_seed(seed)
    assert flow.fitted is not None
    return (
        lambda n: f(torch.randn(n, flow.dim, generator=generator)),
        lambda x: log_likelihood(flow, f, x.float()),
        *_cost(flow.fitted),
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
    return (
        lambda n: model().sample((n,)).double() * std + mean,
        lambda x: model().log_prob(((x - mean) / std).float()).double() - std.log().sum(),
        *_cost(fitted),
    )


def _cost(fitted: Fitted) -> tuple[int, float]:
    return fitted.steps, fitted.seconds


@torch.no_grad()
def judged(fit: Fit, held_out: Table) -> tuple[dict[str, float], Tensor]:
    """What held-out rows say of a fit, and samples."""
    sampler, log_prob, steps, seconds = fit
    real = held_out.rows[:MOST]
    sampler(1000)
    times = []
    for _ in range(5):
        began = time.process_time()
        sampler(1000)
        times.append(time.process_time() - began)
    samples = sampler(len(real)).double()
    return {
        "nats": -float(log_prob(real).double().mean()),
        "energy distance / 1000": 1000 * energy_distance(real, samples),
        "told apart / %": 100 * classifier_test(real, samples).accuracy,
        "1000 samples / ms": 1000 * median(times),
        "steps": float(steps),
        "seconds": seconds,
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
        found: dict[str, list[dict[str, float]]] = {"one-step flow matching": [], "zuko NSF": []}
        for seed in range(options.seeds):
            for which, fit in zip(found, (ours, spline_flow), strict=True):
                figures, samples = judged(fit(train, options.seconds, seed), held_out)
                found[which].append(figures)
                if seed == 0 and fit is ours:
                    corner(options.out / f"{name}.png", {"data": real, "samples": samples}, train.columns)
        for which, rows in found.items():
            middle = {key: median(row[key] for row in rows) for key in rows[0]}
            print(f"  {which:<24}" + "  ".join(f"{key} {value:.4g}" for key, value in middle.items()), flush=True)
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
