"""Samples of vectors beside the rows of their table: likelihood, energy distance, a classifier, and a picture."""

from pathlib import Path
from typing import Any

import torch

from applications.common.data.table import Table
from applications.common.figures import corner
from applications.common.metrics import classifier_test, energy_distance
from applications.flow_matching.evaluate import log_likelihood
from applications.flow_matching.model import FlowMatching

MOST = 2000
"""Rows that are compared and drawn, at most."""


@torch.no_grad()
def report(model: FlowMatching, train: Table, held_out: Table, picture: Path, seed: int = 0) -> dict[str, Any]:
    """Compare as many samples as there are rows held out with these, and draw both.

    Beside each figure stands that of as many rows trained on, which no sampler of the distribution beats but by chance.

    Returns:
        nats: mean -log p of rows, in the table's units, of those trained on and of those held out: far apart, the model has
        memorised. energy_distance, and accuracy of the classifier (`applications/common/metrics.py`): of samples, and of
        rows trained on.
    """
    real = held_out.rows[:MOST]
    seen = train.rows[: len(real)]
    samples = model.sample(len(real), torch.Generator().manual_seed(seed)).double()
    corner(picture, {"data": real, "samples": samples}, held_out.columns)
    varying = [i for i in range(len(train.columns)) if i not in model.config.constant]
    f = model.operator()
    a, b, c = (rows[:, varying] for rows in (real, samples, seen))
    told = {"samples": classifier_test(a, b), "data": classifier_test(a, c)}
    return {
        "rows": {"trained on": len(train.rows), "held out": len(held_out.rows), "compared": len(real)},
        "nats": {
            name: -float(log_likelihood(f, rows.to(next(model.parameters()))).double().mean())
            for name, rows in (("trained on", seen), ("held out", real))
        },
        "energy_distance": {"samples": energy_distance(a, b), "data": energy_distance(a, c)},
        "classifier": {name: {"accuracy": test.accuracy, "deviation": test.deviation} for name, test in told.items()},
    }


def summary(found: dict[str, Any]) -> str:
    """A report in a few lines."""
    nats, energy, told = found["nats"], found["energy_distance"], found["classifier"]
    lines = [
        f"{found['rows']['compared']} samples beside as many rows held out (rows trained on beside them, in brackets):",
        f"  energy distance {energy['samples']:.4f} ({energy['data']:.4f})",
        f"  a classifier tells them apart in {told['samples']['accuracy']:.1%} of cases ({told['data']['accuracy']:.1%}; "
        f"guessing: 50 % +- {told['samples']['deviation']:.1%})",
        f"  -log p of a row {nats['held out']:.3f} nats ({nats['trained on']:.3f})",
    ]
    if nats["held out"] - nats["trained on"] > 0.5:
        lines.append("  rows trained on are much likelier than those held out: the model memorises; train for fewer --steps")
    return "\n".join(lines)
