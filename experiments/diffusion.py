"""Diffusion on rows of numbers, in the manner of TabDDPM (Kotelnikov et al. 2023): the contender of `compare_vectors.py`.

x_t = √ᾱ_t x + √(1 - ᾱ_t) ε for t = 0..999, with the cosine schedule of Nichol and Dhariwal (2021). A network e predicts ε; its
loss is |e(x_t, t) - ε|². Columns are made normal by their quantiles before, and put back after.
"""

import math
from typing import Final

import torch
from sklearn.preprocessing import QuantileTransformer
from torch import Tensor, nn

from applications.common.data.source import Batch
from applications.common.randomness import Asked, Draws, Noise
from applications.common.training import Objective

TIMES: Final = 1000
EMBEDDED: Final = 128
"""Numbers that stand for a time: sines and cosines."""
LARGEST: Final = 5.2
"""Beyond the largest value of a column made normal."""


class NormalColumns:
    """Each column made normal by its quantiles, one for every 30 rows."""

    def __init__(self, rows: Tensor) -> None:
        count = min(max(len(rows) // 30, 10), TIMES)
        self._transform = QuantileTransformer(n_quantiles=count, output_distribution="normal", subsample=None).fit(rows.numpy())

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self._transform.transform(rows.numpy())).float()

    def inverse(self, normal: Tensor) -> Tensor:
        return torch.from_numpy(self._transform.inverse_transform(normal.double().numpy()))


class Denoiser(nn.Module):
    """e(x, t): the noise in x at time t, by an MLP of x and the time's sines."""

    kept: Tensor
    sines: Tensor

    def __init__(self, columns: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        angles = torch.arange(TIMES)[:, None] * 1e4 ** -torch.linspace(0, 1, EMBEDDED // 2)
        level = torch.cos((torch.arange(TIMES + 1, dtype=torch.float64) / TIMES + 0.008) / 1.008 * math.pi / 2) ** 2
        self.register_buffer("kept", (level[1:] / level[:-1]).clamp_min(1e-3).cumprod(0).float())
        self.register_buffer("sines", torch.cat([angles.sin(), angles.cos()], -1))
        self.time = nn.Sequential(nn.Linear(EMBEDDED, EMBEDDED), nn.SiLU(), nn.Linear(EMBEDDED, EMBEDDED))
        self.first = nn.Linear(columns, EMBEDDED)
        sizes = (EMBEDDED, *widths)
        hidden = [layer for m, n in zip(sizes, widths, strict=False) for layer in (nn.Linear(m, n), nn.ReLU())]
        self.rest = nn.Sequential(*hidden, nn.Linear(sizes[-1], columns))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        noise: Tensor = self.rest(self.first(x) + self.time(self.sines[t]))
        return noise

    def loss(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean |e(x_t, t) - ε|² for times t (n,)."""
        kept = self.kept[t][:, None]
        return (self(kept.sqrt() * x + (1 - kept).sqrt() * noise, t) - noise).square().mean()

    @torch.no_grad()
    def sample(self, n: int, steps: int, generator: torch.Generator, *, ancestral: bool) -> Tensor:
        """Draw n rows by so many network evaluations: ancestral ones (Ho et al. 2020), or those of DDIM (Song et al. 2021).

        What a step takes for the clean row is kept within the range of the columns.
        """
        x = torch.randn(n, self.first.in_features, generator=generator)
        times = torch.arange(0, TIMES, TIMES // steps).flip(
            0
        )  # as DDIM's own: from less than pure noise, where e is ill conditioned
        for t, before in zip(times, [*self.kept[times[1:]], torch.ones(())], strict=True):
            now = self.kept[t]
            clean = ((x - (1 - now).sqrt() * self(x, t)) / now.sqrt()).clamp(-LARGEST, LARGEST)
            noise = (x - now.sqrt() * clean) / (1 - now).sqrt()
            variance = (1 - before) / (1 - now) * (1 - now / before) if ancestral else torch.zeros(())
            x = before.sqrt() * clean + (1 - before - variance).clamp_min(0).sqrt() * noise
            if ancestral:
                x = x + variance.sqrt() * torch.randn(x.shape, generator=generator)
        return x


class Denoising(Objective):
    """A diffusion model by the noise that it predicts."""

    model: Denoiser

    def __init__(self, columns: int, widths: tuple[int, ...] = (256, 256)) -> None:
        super().__init__()
        self.model = Denoiser(columns, widths)

    def draw(self, n: int, generator: torch.Generator) -> Asked:
        return {"noise": Noise((n, self.model.first.in_features)), "time": torch.randint(TIMES, (n,), generator=generator)}

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        return {"loss": self.model.loss(batch["rows"], draws["noise"], draws["time"])}
