"""Flow matching on vectors: charts in the units of the data, fits that repeat, runs of tables, and figures that can fail."""

import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import induced
from applications import cli
from applications.common.data import Tensors
from applications.common.data.table import as_table, load_table, two_moons
from applications.common.metrics import energy_distance
from applications.common.timed import fit_for
from applications.common.training import Objective
from applications.flow_matching import fit_flow
from applications.flow_matching.columns import Varying, couplings, standardising
from applications.flow_matching.config import OF_VECTORS, Config, ModelConfig, ObjectiveConfig
from applications.flow_matching.evaluate import log_likelihood, promises
from applications.flow_matching.judging import summary
from applications.flow_matching.model import DATA, FlowMatching, build
from applications.flow_matching.vectors import encoded, model_of
from induced.bijections import Affine, Composition
from induced.checks import check_bijection, require
from induced.checks.report import Reports
from induced.errors import DataError, DomainError
from induced.serialization import save
from proofs_tests.applications.rows import generator, rows


def untrained(chart: Any = "spline", data: Tensor | None = None) -> FlowMatching:
    table = as_table(rows() if data is None else data)
    return model_of(ModelConfig(chart=chart, density_blocks=2, density_width=8), table, table.constant(), 0)


@pytest.mark.parametrize("chart", ["spline", "real_nvp"])
def test_the_chart_standardises_its_columns_and_leaves_out_the_constant_one(chart: str) -> None:
    model = untrained(chart)
    assert model.config.shape == (3,) and model.config.constant == (1,) and model.config.rank == model.dim == 2
    c = model.chart_at(DATA, model.encoder)(rows())
    assert c.shape == (400, 2) and c.mean(0).abs().max() < 1e-9 and (c.std(0) - 1).abs().max() < 1e-9
    x = model.sample(100, generator())
    assert x.shape == (100, 3) and (x[:, 1] == torch.tensor(7.1)).all()
    assert 9_500 < x[:, 0].mean() < 10_500 and 20 < x[:, 0].std() < 500, "in the units of the data"


@pytest.mark.parametrize("kind", ["spline", "real_nvp"])
@pytest.mark.parametrize("dim", [2, 5])
def test_charts_of_columns_obey_their_laws(kind: str, dim: int) -> None:
    torch.manual_seed(0)
    parts: list[Any] = [*standardising(dim, ()), *couplings(kind, dim, 3, 8)]
    g = Composition(*parts).double()
    require(*check_bijection(g, torch.randn(20, dim, dtype=torch.float64)))


@pytest.fixture(scope="module")
def far_from_zero() -> FlowMatching:
    """Of a column with mean 1e4 and standard deviation 1e-3, which float32 cannot resolve, beside one of the usual size."""
    table = rows(100)[:, [0, 2]] * torch.tensor([1e-5, 1.0]) + torch.tensor([1e4, 0.0])
    return fit_flow(table, steps=1, blocks=1, width=4, batch=16)


def test_check_judges_what_a_model_of_vectors_promises(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("check", "--run", small, "--n", 2)
    printed = capsys.readouterr().out
    for dtype in ("float32", "float64"):
        block = printed.partition(f"{dtype}: at samples: promises\n")[2].partition("\n\n")[0]
        for law in ("one step is the many", "f(f^-1(x)) = x", "columns standardised: g^-1(g(x)) = x"):
            assert re.search(rf"^{re.escape(law)} .* holds", block, re.MULTILINE), law
    assert " 0 violated; " in printed


def test_another_number_of_steps_and_a_column_put_back_wrong_are_violations(moons: FlowMatching) -> None:
    model, x = copy.deepcopy(moons).double(), moons.sample(3, generator()).double()
    x0 = model.invert(x)
    found = Reports(promises(model, model.operator(), x0, x, 100))
    assert found.ok and found.counts()["not applicable"] < 5
    (report,) = (r for r in promises(model, model.operator(2, "euler"), x0, x, 100) if not r.ok)
    assert report.law == "one step is the many" and report.verdict == "violated"
    last: Any = model.encoder[-1]
    last.inverse = lambda z: 1.01 * Affine.inverse(last, z)
    broken = {r.law for r in promises(model, model.operator(), x0, x, 100) if r.verdict == "violated"}
    assert {"f(f^-1(x)) = x", "columns standardised: g^-1(g(x)) = x"} <= broken


def test_what_float32_cannot_judge_and_float64_shows_to_hold_is_said_and_is_no_failure(
    far_from_zero: FlowMatching, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("check", "--run", save(far_from_zero, tmp_path / "far"), "--n", 2)
    *_, counts, said = capsys.readouterr().out.splitlines()
    hidden = re.search(r" 0 violated; (\d+) unjudgeable, ", counts)
    assert hidden is not None and int(hidden[1]) > 0
    assert said == f"{hidden[1]} of those are unjudgeable in float32, whose roundings hide them, and hold in float64"


def test_the_laws_hold_on_the_rows_that_vary() -> None:
    model = untrained().double()
    require(induced.check(model.operator()))
    g = Varying(4, (1, 3))
    g.values.copy_(torch.tensor([5.0, -1.0]))
    assert g.inverse(torch.tensor([2.0, 3.0])).tolist() == [2.0, 5.0, 3.0, -1.0]
    assert g(torch.tensor([2.0, 5.0, 3.0, -1.0])).tolist() == [2.0, 3.0]


def test_the_likelihood_is_that_of_the_change_of_variables() -> None:
    """log N(x_0) - log|det df/dx_0|, the Jacobian by autograd, over the columns that vary."""
    model = untrained().double()
    f, x0 = model.operator(), torch.randn(5, 2, generator=generator(), dtype=torch.float64)
    x = f(x0)
    J = torch.stack([torch.autograd.functional.jacobian(f, z)[[0, 2]] for z in x0])
    expected = -(x0**2).sum(1) / 2 - math.log(2 * math.pi) - torch.linalg.slogdet(J).logabsdet
    assert torch.allclose(log_likelihood(f, x), expected, rtol=1e-9)


def test_inverting_gives_the_noise_back_and_refuses_another_constant() -> None:
    model = untrained()
    x = model.sample(50, generator(3))
    noise = torch.randn(50, 2, generator=generator(3), dtype=torch.float64)
    # float32 knows a column of 10^4 +- 10^2 to 1e-5 of its deviation
    assert torch.allclose(model.invert(x).double(), noise, atol=1e-3)
    x[4, 1] = 7.2
    with pytest.raises(DomainError, match="column 1 is 7.1 in all rows that were trained on, but row 4 has 7.2"):
        model.invert(x)


@pytest.fixture(scope="module")
def moons() -> FlowMatching:
    return fit_flow(two_moons(2000).rows, steps=200, blocks=3, width=24)


def test_a_fit_learns_the_moons_and_inverts_them_to_noise(moons: FlowMatching) -> None:
    data = two_moons(1000, seed=1).rows
    samples = moons.sample(1000, generator())
    normal = (
        data.mean(0) + torch.randn(1000, 2, generator=generator(), dtype=torch.float64) @ torch.linalg.cholesky(data.T.cov()).T
    )
    assert abs(energy_distance(data, samples)) < 0.2 * energy_distance(data, normal)
    codes = moons.invert(data)
    assert codes.mean(0).abs().max() < 0.2 and (codes.T.cov() - torch.eye(2)).abs().max() < 0.25
    f = moons.operator()
    assert torch.allclose(f(codes), data.float(), atol=1e-4)
    noise = torch.randn(20, 2, generator=generator())
    assert torch.allclose(f(noise), moons.multi_step(noise), atol=1e-3), "one step is the hundred"


def test_steps_repeat_a_fit_of_seconds_bit_for_bit() -> None:
    first = fit_flow(rows(100), seconds=0.3, blocks=1, width=4, batch=16)
    assert first.fitted is not None and first.fitted.steps >= 1
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = fit_flow(rows(100), steps=first.fitted.steps, blocks=1, width=4, batch=16)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"
    assert again.fitted is not None and again.fitted.steps == first.fitted.steps and again.fitted.kept == first.fitted.kept
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    other = fit_flow(rows(100), steps=first.fitted.steps, blocks=1, width=4, batch=16, seed=1)
    assert not torch.equal(first.sample(3, generator()), other.sample(3, generator()))


def test_a_fit_is_saved_as_any_model_is(moons: FlowMatching, tmp_path: Path) -> None:
    save(moons, tmp_path / "moons")
    again = induced.load(tmp_path / "moons")
    assert isinstance(again, FlowMatching) and torch.equal(again.sample(5, generator()), moons.sample(5, generator()))


class Drift(Objective):
    """One weight that goes up by the learning rate at each step of Adam, since its gradient is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.model: nn.Linear = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def forward(self, batch: dict[str, Tensor], draws: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": -self.model.weight.sum()}


LINE = Tensors("line", {"x": torch.zeros(10, 1)})


def test_the_average_is_kept_where_it_was_best_and_a_fit_that_gets_no_better_ends() -> None:
    seen: list[float] = []

    def weight_of(model: nn.Module) -> float:
        assert isinstance(model, nn.Linear)
        return float(model.weight)

    def judge(model: nn.Module) -> float:
        seen.append(weight_of(model))
        return -len(seen)

    best, fitted = fit_for(Drift(), LINE, lambda model: abs(weight_of(model) - 0.1), steps=10_000, batch=4)
    fit_for(Drift(), LINE, judge, steps=1000, batch=4)
    weight, average, averages = 0.0, 0.0, []
    for step in range(1000):
        weight += 2e-3 * min(1.0, (step + 1) / 100) / math.sqrt(1 + step / 1000)
        average += (weight - average) * 9 / (11 + step)
        averages.append(average)
    assert seen == pytest.approx(averages[99::100], rel=1e-3), "Adam's steps of the schedule, averaged over the last tenth"
    distances = [abs(value - 0.1) for value in seen]
    assert fitted.kept == 100 * (1 + int(np.argmin(distances))) and fitted.steps == fitted.kept + 1001
    assert fitted.loss == pytest.approx(min(distances)) and weight_of(best) == pytest.approx(seen[fitted.kept // 100 - 1])


def test_a_fit_that_cannot_be_meant_or_diverges_is_refused() -> None:
    class Worse(Drift):
        def forward(self, batch: dict[str, Tensor], draws: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": self.model.weight.sum() * math.inf}

    for budget in ({}, {"steps": 0}, {"seconds": -1.0}, {"steps": 3, "seconds": 2.0}):
        with pytest.raises(DomainError, match="give either seconds or steps, a positive number; got"):
            fit_for(Drift(), LINE, lambda model: 0.0, **budget)
    with pytest.raises(DomainError, match="the fit diverged at step 1: .* a smaller learning_rate"):
        fit_for(Worse(), LINE, lambda model: 0.0, steps=2)
    with pytest.raises(DomainError, match=r"validation is a share of the rows in \(0, 0.5\], got 0"):
        fit_flow(rows(), validation=0)
    with pytest.raises(DataError, match="X has 49 rows: at least 50 are needed"):
        fit_flow(rows(49))


def test_settings_of_images_do_not_make_a_model_of_vectors() -> None:
    assert isinstance(build(ModelConfig().of_vectors(3, ())), FlowMatching)
    with pytest.raises(
        DomainError, match=r"chart 'glow' does not fit points of shape \(3,\): 'spline' and 'real_nvp' are for vectors"
    ):
        build(ModelConfig(shape=(3,)))
    with pytest.raises(DomainError, match=r"chart 'spline' does not fit points of shape \(1, 32, 32\)"):
        build(ModelConfig(chart="spline"))
    with pytest.raises(DomainError, match="all 3 varying columns of a vector lead: expected rank 3, .* got rank 2"):
        build(replace(ModelConfig().of_vectors(3, ()), rank=2))


# the command line
def command(*arguments: object) -> None:
    """Run `induced` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["induced", *map(str, arguments)])
        cli.main()


TINY = ("--steps", 6, "--batch", 16, "--warmup", 2, "--density-blocks", 1, "--density-width", 4, "--device", "cpu")


def test_a_table_is_trained_reported_and_sampled_in_its_own_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["size,kind,one,weight", *(f"{a!r},text,{b!r},{c!r}" for a, b, c in rows(100).tolist())]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    run, out = tmp_path / "run", tmp_path / "samples.csv"
    chosen = ("--columns", "weight", "one", "size")
    command("train", "flow-matching", "--data", tmp_path / "table.csv", *chosen, "--out", run, *TINY)
    said = capsys.readouterr().out
    assert "column one never varies: it is left out of the model, and every sample has its value" in said
    assert "20 samples beside as many rows held out" in said
    report = json.loads((run / "report.json").read_text())
    assert report["rows"] == {"trained on": 80, "held out": 20, "compared": 20}
    assert set(report) == {"rows", "nats", "energy_distance", "classifier"} and (run / "samples" / "step-00000006.png").exists()
    command("sample", "--run", run, "--n", 12, "--out", out)
    drawn = load_table(str(out))
    assert drawn.columns == ("weight", "one", "size") and drawn.rows.shape == (12, 3)
    assert (drawn.rows[:, 1] == 7.1).all() and 9_000 < drawn.rows[:, 2].mean() < 11_000
    command("export", "--run", run, "--out", tmp_path / "exported")
    command("sample", "--run", tmp_path / "exported", "--n", 12, "--out", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == out.read_text(), "an export keeps all digits of the columns' units"
    command("sample", "--run", run, "--n", 12, "--out", tmp_path / "samples.png")
    assert (tmp_path / "samples.png").exists()
    command("train", "flow-matching", "--data", tmp_path / "table.csv", *chosen, "--out", run, *TINY, "--steps", 8, "--resume")
    assert "resumed after step 6" in capsys.readouterr().out
    model = induced.load(run)
    assert isinstance(model, FlowMatching) and model.config.constant == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("sample", "--n", 3, "--out", "samples.txt"),
            "samples.txt: pictures are written as .png, .jpg, .jpeg, rows as .csv",
        ),
        *(
            ((verb,), "this model draws rows of 2 columns, not images: it has sample, info, check and export; `induced info RUN`")
            for verb in ("invert", "interpolate", "edit", "judge")
        ),
    ],
)
def test_a_command_that_does_not_fit_a_run_of_vectors_says_so(
    small: Path, arguments: tuple[object, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        command(*arguments, "--run", small)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    np.save(folder / "rows.npy", rows(60)[:, [0, 2]].numpy())
    command("train", "flow-matching", "--data", folder / "rows.npy", "--out", folder / "run", *TINY)
    return folder / "run"


def test_info_of_a_table_names_what_is_meant_for_vectors(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("export", "--run", small, "--out", tmp_path / "small")
    for folder, what in ((small, "run"), (tmp_path / "small", "model")):
        command("info", folder)
        said = capsys.readouterr().out
        assert f"{folder}: a {what} of `flow-matching`: it has sample, check and export\n" in said
        assert sorted(re.findall(r"^  model\.(\w+)", said, re.M)) == sorted(
            name for name in OF_VECTORS if hasattr(ModelConfig(), name)
        )
        shown = [name for name in OF_VECTORS if hasattr(ObjectiveConfig(), name)]
        assert sorted(re.findall(r"^  objective\.(\w+)", said, re.M)) == sorted(shown)
    with pytest.raises(SystemExit, match="this is a run of `flow-matching`: it has sample, check and export$"):
        command("project", "--run", small)


def test_a_column_of_few_values_is_told_since_it_has_no_density(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = rows(60)[:, [0, 2]]
    data[:, 1] = torch.arange(60) % 3
    np.save(tmp_path / "rows.npy", data.numpy())
    command("train", "flow-matching", "--data", tmp_path / "rows.npy", "--out", tmp_path / "run", *TINY)
    said = capsys.readouterr().out
    assert "column x2 takes 3 values only and has no density" in said and "column x1" not in said


@pytest.mark.parametrize(("values", "found"), [(1, {}), (2, {"x1": 2}), (100, {"x1": 100}), (101, {}), (2000, {})])
def test_a_column_is_discrete_where_each_of_at_most_100_values_comes_ten_times(values: int, found: dict[str, int]) -> None:
    column = torch.arange(2000, dtype=torch.float64) % values
    assert as_table(torch.stack([column, torch.randn(2000).double()], 1)).discrete() == found
    assert as_table(torch.stack([column, torch.randn(2000).double()], 1)[: 10 * values - 1]).discrete() == {}


def test_a_name_that_is_no_data_set_is_told_both_kinds() -> None:
    with pytest.raises(
        SystemExit, match=r"--data people: neither images \(mnist, .*\) nor a table \(two-moons, digit-scores, or"
    ):
        command("train", "flow-matching", "--data", "people", "--out", "never")


def test_a_model_that_memorises_is_told() -> None:
    figures = {"samples": 0.1, "data": 0.0}
    told = {name: {"accuracy": 0.6, "deviation": 0.01} for name in figures}
    found = {
        "rows": {"compared": 9},
        "nats": {"trained on": 1.0, "held out": 2.0},
        "energy_distance": figures,
        "classifier": told,
    }
    assert "the model memorises; train for fewer --steps" in summary(found)
    assert "memorises" not in summary(found | {"nats": {"trained on": 1.0, "held out": 1.4}})


def test_rows_are_standardised_in_float64_before_they_are_rounded() -> None:
    data = rows() + torch.tensor([1e9, 0.0, 0.0])
    model = untrained(data=data)
    c = encoded(model, as_table(data))
    assert c.dtype == torch.float32 and (c.std(0) - 1).abs().max() < 1e-5 and c.mean(0).abs().max() < 1e-5


def test_the_config_of_a_table_names_its_data() -> None:
    assert Config(data="two-moons").columns == () and not Config().model.vectors
