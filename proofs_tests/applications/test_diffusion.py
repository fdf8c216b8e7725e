"""The diffusion model that vectors are compared with: given the exact noise of normal rows, its samplers draw such rows."""

import pytest
import torch
from torch import Tensor

from experiments.diffusion import TIMES, Denoiser, Denoising, NormalColumns

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.2])


class Exact(Denoiser):
    """E[ε | x_t] where the rows are N(MEAN, diag(STD²))."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        kept = self.kept[t].unsqueeze(-1)
        return (1 - kept).sqrt() * (x - kept.sqrt() * MEAN) / (kept * STD.square() + 1 - kept)


@pytest.mark.parametrize(("steps", "ancestral"), [(TIMES, True), (50, False), (50, True)])
def test_samplers_with_the_exact_noise_draw_the_rows_distribution(steps: int, ancestral: bool) -> None:
    x = Exact(2, ()).sample(20_000, steps, torch.Generator().manual_seed(0), ancestral=ancestral)
    coarse = 1 if steps == TIMES else 6  # fewer steps, a larger error of the distribution itself
    assert (x.mean(0) - MEAN).abs().max() < coarse * 0.03
    assert (x.std(0) / STD - 1).abs().max() < coarse * 0.02
    assert x.T.corrcoef()[0, 1].abs() < 0.03


def test_the_loss_is_least_at_the_exact_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x = MEAN + STD * torch.randn(4000, 2, generator=generator)
    noise, t = torch.randn(x.shape, generator=generator), torch.randint(TIMES, (4000,), generator=generator)
    objective, exact = Denoising(2), Exact(2, ())
    kept = exact.kept[t][:, None]
    least = (kept * STD.square() / (kept * STD.square() + 1 - kept)).mean()  # E Var[ε | x_t]
    assert abs(float(exact.loss(x, noise, t)) - float(least)) < 0.03
    found = objective({"rows": x}, {"noise": noise, "time": t})["loss"]
    assert found > least + 0.1
    assert found.requires_grad


def test_times_leave_little_of_a_row_at_the_end_and_nearly_all_at_the_start() -> None:
    kept = Denoiser(2, ()).kept
    assert (kept.diff() < 0).all()
    assert kept[0] > 0.9999
    assert 0 < kept[-1] < 1e-5


def test_normal_columns_are_normal_and_go_back() -> None:
    rows = torch.rand(3000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).exp() * torch.tensor([1.0, 1e4])
    columns = NormalColumns(rows)
    normal = columns(rows)
    assert (normal.std(0) - 1).abs().max() < 0.05
    assert normal.mean(0).abs().max() < 0.05
    assert ((columns.inverse(normal) - rows).abs() / rows).max() < 1e-5
