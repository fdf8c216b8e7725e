"""Densities of the leading coordinates of one trained encoder: couplings, an autoregressive flow, mixtures, and kernels.

    python -m experiments.compare_densities --minutes 8 [--run FOLDER] [--only "spline couplings"] [--out runs/densities]

The chart of the data end is g_1 = h . e. The encoder e, of the shipped model or of a run, stays as it is, and each h is fitted
to its codes (`densities.py`), on one thread: flows by likelihood for --minutes at most, mixtures by expectation-maximisation.
Of MNIST's training digits, 5,000 are a validation part: it stops each flow, and judges all densities. The test set is never
read. The shipped encoder was trained on all these digits, so that figures compare densities, and are not those of new digits.
--out keeps the codes, and a density that is in its results.jsonl is not fitted again.

nats: mean -log p of codes without noise, r/2 log 2 pi included, of the validation part and of as many codes that were fitted.
Digits are decoded from drawn codes, by two seeds, the other coordinates drawn as the model draws them, and compared with
validation images; 500 of them with the nearest fitted image. References: fitted images; fitted codes, which are decoded with the
Frechet distance of a perfect density; validation images and codes, of which only the distance to the nearest fitted image means
something. Kernels show what copies score.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from applications.common.data import to_unit
from applications.common.options import ModelFolder
from applications.common.quality import quality
from applications.flow_matching.config import Config
from applications.flow_matching.model import DATA, FlowMatching
from applications.flow_matching.train import training_set
from benchmarks.common import table
from experiments.ablation import ablate
from experiments.densities import DENSITIES, PART, Codes
from induced.bijections import Bijection, ConditionalDirectSum

VALIDATION, SPLIT, SEEDS, NEAREST = 5000, 123, (0, 1), 500
REFERENCES = ("fitted images", "fitted codes", "validation images", "validation codes")
NAMES = (*DENSITIES, *REFERENCES)
COLUMNS = ("fit / s", "nats", "of fitted", "frechet", "precision", "recall", "nearest", "draw / ms")


class Judge:
    """Fits a density to the codes of one encoder, and judges it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.model = asked, ModelFolder(asked.run).load(FlowMatching).requires_grad_(False)
        self.e, data = self.model.chart_at(DATA, self.model.encoder), training_set(Config(data="mnist"))
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SPLIT))
        parts = {"fitted": order[VALIDATION:][: asked.digits].sort().values, "validation": order[:VALIDATION].sort().values}
        self.real = replace(data, images=data.images[parts["validation"]], labels=data.labels[parts["validation"]])
        self.images = {name: to_unit(data.images[part]) for name, part in parts.items()}
        self.codes = self.encoded(asked.out / "codes.safetensors") | {"labels": data.labels[parts["fitted"]]}
        self.known = NearestNeighbors(n_neighbors=1).fit(self.images["fitted"].flatten(1).numpy())

    def encoded(self, file: Path) -> Codes:
        """The codes of all images, from the file if it has those of this encoder."""

        def of(x: Tensor) -> Tensor:
            return torch.cat([self.e(part)[:, : self.model.config.rank] for part in x.split(PART)])

        kept, few = load_file(file) if file.exists() else {}, {name: of(x[:8]) for name, x in self.images.items()}
        same = [len(kept.get(name, ())) == len(x) and near(kept[name][:8], few[name]) for name, x in self.images.items()]
        if not all(same):
            save_file(kept := {name: of(x) for name, x in self.images.items()}, file)
        return kept

    def decoded(self, c: Tensor, generator: torch.Generator) -> Tensor:
        """Images of codes, the other coordinates drawn as the model draws them."""
        (h,), r = cast(list[ConditionalDirectSum], self.model.density), c.shape[1]
        rest = self.model.latent_std()[r:] * torch.randn(len(c), self.model.dim - r, generator=generator)
        z = torch.cat([c, cast(Bijection, h.charts[1]).inverse(rest)], -1)
        return torch.cat([self.e.inverse(part) for part in z.split(PART)])

    def reference(self, name: str, generator: torch.Generator) -> Tensor:
        """Images of a part, or its codes decoded."""
        part, what = name.split()
        chosen = torch.randperm(len(self.images[part]), generator=generator)[: self.asked.samples]
        return self.images[part][chosen] if what == "images" else self.decoded(self.codes[part][chosen], generator)

    def __call__(self, name: str) -> dict[str, float]:
        density, found = DENSITIES[name](self.codes, self.asked) if name in DENSITIES else None, dict[str, float]()
        if density is not None:
            found |= density.figures
            for key, part in ("nats", "validation"), ("of fitted", "fitted"):
                found[key] = float(density.minus_log(self.codes[part][:VALIDATION]).double().mean())
        for seed in SEEDS:
            generator = torch.Generator().manual_seed(seed)
            if density is None:
                images = self.reference(name, generator)
            else:
                noise, began = torch.randn(self.asked.samples, self.model.config.rank, generator=generator), time.process_time()
                c = density.draw(noise, generator)
                found["draw / ms"] = 1e3 * (time.process_time() - began) / len(c)
                images = self.decoded(c, generator)
            if not name.startswith("validation"):
                scores = quality(images, self.real)
                found |= {f"{key} {seed}": getattr(scores, key) for key in ("frechet", "precision", "recall")}
            if seed == SEEDS[0]:
                apart, _ = self.known.kneighbors(images[:NEAREST].flatten(1).numpy())
                quartiles = torch.from_numpy(apart).float().quantile(torch.tensor([0.5, 0.25, 0.75])).tolist()
                found |= {f"nearest {share}": value for share, value in zip(("50 %", "25 %", "75 %"), quartiles, strict=True)}
        return found


def near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="CPU time of one thread, at most, for each flow")
    parser.add_argument("--run", type=Path, help="run folder of the encoder; the pretrained model if absent")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"some of: {'; '.join(NAMES)}")
    parser.add_argument("--digits", type=int, help="fit so many; all if absent")
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="of the fits")
    parser.add_argument("--out", type=Path, default=Path("runs/densities"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    ablate(asked, Judge(asked))
    records = [json.loads(line) for line in (asked.out / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [
        (found["variant"], *(", ".join(f"{v:.4g}" for key, v in found.items() if key.startswith(column)) for column in COLUMNS))
        for found in records
    ]
    table("validation digits; two seeds, or median and quartiles", ("density", *COLUMNS), rows)


if __name__ == "__main__":
    main()
