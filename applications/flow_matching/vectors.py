"""One-step flow matching on vectors: a fit in one call, and the training of a table into a run folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor, nn

from applications.common.data import Tensors
from applications.common.data.table import Table, as_table, csv_text, load_table
from applications.common.figures import corner
from applications.common.parallel import accelerator_for
from applications.common.randomness import require_share
from applications.common.runs import Run
from applications.common.start import Start
from applications.common.timed import fit_for
from applications.common.training import TrainingResult, fit
from applications.flow_matching.columns import standardise
from applications.flow_matching.config import Config, ModelConfig, ObjectiveConfig, settings
from applications.flow_matching.judging import report, summary
from applications.flow_matching.model import DATA, FlowMatching, build
from applications.flow_matching.objective import LatentObjective
from induced.errors import DomainError
from induced.serialization import notes
from induced.serialization.disk import replace_file

ROWS = {".csv": "rows as .csv"}
"""Suffix of tables that are written, in words."""
SHOWN = 2000
"""Rows that figures compare and draw, at most."""


def fit_flow(
    X: Any,
    *,
    seconds: float = 60.0,
    seed: int = 0,
    steps: int | None = None,
    validation: float = 0.1,
    chart: Literal["spline", "real_nvp"] = "spline",
    blocks: int = 6,
    width: int = 64,
    batch: int = 256,
) -> FlowMatching:
    """A one-step generator of vectors like the rows of X.

    Columns are standardised inside the chart, so that samples are in the units of X. A column that never varies is left out of
    the model, and every sample has its value.

    Arguments:
        X: tensor, array or nested lists (N, n) of real numbers, at least 50 rows and two columns that vary.
        seconds: CPU time that the fit may take; it ends earlier where nothing improves any more.
        seed: seed of the weights, of the rows held out, and of all noise.
        steps: steps in place of seconds. `flow.fitted.steps` of an earlier fit repeats it bit for bit.
        validation: share of the rows that choose the best weights, and train none.
        chart: couplings by splines, or affine ones.
        blocks: how many.
        width: hidden units of their conditioners.
        batch: rows a step.

    Returns:
        The model. `flow.sample(n, generator=None)` draws rows; `flow.invert(x)` is their noise, N(0, I) for x as in X;
        `flow.operator()` is the Linearizer between the two; `flow.fitted` says what the fit came to;
        `induced.serialization.save(flow, folder)` keeps it.

    Raises:
        ShapeError: X is no matrix.
        DataError: X holds no real numbers, one that is not finite, too few rows, or fewer than two columns that vary.
        DomainError: seconds or steps is not positive, validation is not in (0, 0.5], or the fit diverges.

    Example:
        >>> X = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0])
        >>> flow = fit_flow(X, steps=3)
        >>> flow.sample(5).shape, flow.fitted.steps
        (torch.Size([5, 2]), 3)
    """
    if not 0 < validation <= 0.5:
        raise DomainError(f"validation is a share of the rows in (0, 0.5], got {validation}")
    table = as_table(X, "X")
    table.require()
    train, held_out = table.split(round(1 / validation))
    model = model_of(ModelConfig(chart=chart, density_blocks=blocks, density_width=width), train, table.constant(), seed)
    objective = LatentObjective(model, ObjectiveConfig(latent_noise=0.0))
    rows = encoded(model, held_out)[:SHOWN]

    def judge(average: nn.Module) -> float:
        leading, volume = objective.saved(average).leading_chart().forward_and_log_abs_det(rows)
        return float((leading.double().square().sum(-1) / 2 - volume.double()).mean())

    source = Tensors("X", {"coordinates": encoded(model, train)})
    budget: dict[str, Any] = {"seconds": seconds} if steps is None else {"steps": steps}
    best, fitted = fit_for(objective, source, judge, batch=batch, seed=seed, **budget)
    flow = objective.saved(best).eval()
    flow.fitted = fitted
    return flow


def model_of(config: ModelConfig, rows: Table, constant: tuple[int, ...], seed: int) -> FlowMatching:
    """The untrained model of a table's rows, standardised by them; torch's own generator stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(config.of_vectors(len(rows.columns), constant))
    standardise(model.encoder, rows.rows)
    return model


def encoded(model: FlowMatching, table: Table) -> Tensor:
    """Rows standardised in float64, and then rounded to the model's dtype."""
    coordinates: Tensor = model.chart_at(DATA, model.encoder)(table.rows)
    return coordinates.to(next(model.parameters()))


def train_table(config: Config, run: Run, **begin: Unpack[Start]) -> TrainingResult:
    """Train on the rows of a table, one in five held out; compare samples with those in report.json and a picture in samples/.

    Raises:
        DataError: as `load_table` and `Table.require` say; and as `fit`.
    """
    accelerator = accelerator_for(begin.get("device", "auto"))
    require_share(config.training.batch // accelerator.num_processes, config.objective.noise_share, "noise_share")
    if accelerator.is_main_process and not begin.get("resume"):  # on resume `fit` compares the settings, which need the columns
        run.check({}, overwrite=begin.get("overwrite", False))
    table = load_table(config.data, config.columns)
    table.require()
    train, held_out = table.split()
    model = model_of(config.model, train, table.constant(), config.training.seed)
    for name in (table.columns[i] for i in table.constant()):
        print(f"column {name} never varies: it is left out of the model, and every sample has its value")
    for name, count in table.discrete().items():
        print(
            f"column {name} takes {count} values only and has no density: -log p and the classifier mean little; add uniform "
            "noise as wide as its steps before, and round samples"
        )
    config = replace(config, model=model.config, objective=replace(config.objective, latent_noise=0.0))
    result = fit(
        LatentObjective(model, config.objective),
        Tensors(table.name, {"coordinates": encoded(model, train)}, made_from=Tensors("", {"rows": train.rows}).fingerprint()),
        config.training,
        run,
        settings=settings(config) | {"columns": list(table.columns)},
        **begin,
    )
    if accelerator.is_main_process:
        picture = run.folder / "samples" / f"step-{result.steps:08d}.png"
        found = report(cast(FlowMatching, result.average).cpu(), train, held_out, picture)
        run.report(found)
        print(summary(found))
    accelerator.wait_for_everyone()
    return result


def write_rows(out: Path, rows: Tensor, folder: Path) -> Path:
    """Write samples as the table in which a run or an export was trained: .csv with its header, or a picture, a corner plot."""
    columns = notes(folder).get("columns")
    if not isinstance(columns, list) or len(columns) != rows.shape[1]:
        columns = [f"x{k + 1}" for k in range(rows.shape[1])]
    if out.suffix not in ROWS:
        return corner(out, {"samples": rows}, columns)
    return replace_file(out, csv_text(columns, rows).encode())
