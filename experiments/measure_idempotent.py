"""What a trained idempotent generator is: bits, errors beside a network trained to be idempotent, quality, anomalies, cost.

    INDUCED_DATA=... python -m experiments.measure_idempotent runs/idempotent --minutes 20 --out runs/idempotent-measured

The run is one of `induced train idempotent` on MNIST. What it is compared with, the usual idempotent network and a glow, is
trained here for --minutes of CPU time of one thread each, by the loop of `compare_generators`, and kept in --out. Every
section adds lines to results.jsonl; --only names the sections.
"""

import argparse
import copy
import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from applications.common.data import load, to_uint8, to_unit
from applications.common.data.sets import training_images
from applications.common.data.source import Batch
from applications.common.figures import captioned_rows, grid, save_picture
from applications.common.kinds import load_model
from applications.common.metrics import auroc, psnr
from applications.common.quality import quality
from applications.flow_matching.model import DATA
from applications.flow_matching.objective import minus_log_density
from applications.idempotent.evaluate import PrincipalProjection, bits
from applications.idempotent.fixed_point import Conditioner
from applications.idempotent.inputs import KINDS, PLAIN, inputs
from applications.idempotent.model import Idempotent
from applications.idempotent.sampling import BATCH, RangeGaussian, anomaly, noise, principal_range, project
from experiments.compare_generators import Contender, Glow, Sampler, train
from experiments.lines import line_plot
from induced import InducedSpace, Linearizer
from induced.bijections import AdditiveCoupling, Bijection, Composition, Flatten, LatticeCoupling

BITWISE = (PLAIN, "scaled by 0.1", "scaled by 10", "uniform noise", "normal noise", "constants", "photographs")
PLACES = {"on data": (PLAIN,), "near data": ("noisy", "lower half erased"), "far from data": ("photographs", "normal noise")}
FITTED = 5000
"""Training images that components and distributions are fitted to."""


@torch.no_grad()
def idempotency_error(f: Callable[[Tensor], Tensor], x: Tensor, batch: int = BATCH) -> Tensor:
    """|f(f(x)) - f(x)| / |f(x)| (k,) of each input, for any map of images; 0 where both are equal."""
    once = torch.cat([f(part) for part in torch.split(x, batch)])
    twice = torch.cat([f(part) for part in torch.split(once, batch)])
    change, size = (torch.linalg.vector_norm(t.flatten(1), dim=1) for t in (twice - once, once))
    return torch.where(change > 0, change / size, 0.0)


class UsualIdempotent(Contender):
    """A network f with the losses |f(x) - x|^2, |f(f(z)) - f(z)|^2 for the outer f, and -|f(f(z)) - f(z)|^2 for the inner one.

    In the manner of Shocher et al., Idempotent Generative Network (2023); the last is held to 1.5 times the first. The network is
    one of the convolutions that the chart's conditioners are made of.
    """

    rate = 1e-3
    weights, most = (20.0, 20.0, 2.5), 1.5

    def __init__(self) -> None:
        super().__init__()
        self.net = Conditioner(1, 1, (32, 32), (48, 96, 192, 256))

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x = batch["images"]
        z = torch.randn(x.shape, generator=generator)
        frozen = copy.deepcopy(self.net).requires_grad_(False)
        fz = self.net(z)
        recovered = (self.net(x) - x).abs().flatten(1).mean(1)
        idempotent = (frozen(fz) - fz).abs().mean()
        inside = fz.detach()
        loose = -(self.net(inside) - inside).abs().flatten(1).mean(1)
        tight = (torch.tanh(loose / (self.most * recovered.detach())) * self.most * recovered.detach()).mean()
        # the gradient of |f(f(z)) - f(z)| reaches the inner f alone, that of the tight term the outer f alone
        return self.weights[0] * recovered.mean() + self.weights[1] * idempotent + self.weights[2] * tight

    def samplers(self) -> dict[str, Sampler]:
        return {"projected noise": self.net}


def baseline(kind: type[Contender], out: Path, data: str, minutes: float, seed: int = 0) -> Contender:
    """A contender trained for so long, or as it was in the folder."""
    torch.manual_seed(seed)
    model, weights = kind(), out / f"{kind.__name__}.safetensors"
    if weights.exists():
        model.load_state_dict(load_file(weights))
    else:
        print(f"training {kind.__name__} for {minutes:g} minutes of CPU time", flush=True)
        model, _ = train(model, training_images(data, (1, 32, 32)), 60 * minutes, seed)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
    return model.eval().requires_grad_(False)


class Measure:
    """The model, its data, and where results go."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.model = options, load_model(options.run, Idempotent)
        self.f, self.plain = self.model.operator(exact=True), self.model.operator(exact=False)
        self.known, self.held_out = training_images(options.data, self.model.config.shape), load(options.data, "test")
        some = torch.linspace(0, len(self.known) - 1, min(FITTED, len(self.known))).round().long()
        self.fitted, self.labels = to_unit(self.known.images[some]), self.known.labels[some]
        self.test = to_unit(self.held_out.images[torch.linspace(0, len(self.held_out) - 1, options.n).round().long()])

    def write(self, section: str, **record: object) -> None:
        """A line of results, on the terminal too."""
        shown = "  ".join(
            f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in record.items()
        )
        print(f"{section:<10} {shown}", flush=True)
        with (self.options.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"section": section, **record}, default=str) + "\n")

    def bits(self) -> None:
        """Point 1: f(f(x)) is f(x) and f(x) does not depend on the batch; and what the same weights do without the lattice."""
        for kind in BITWISE:
            x = inputs(kind, self.test)
            for name, f in (("lattice", self.f), ("plain", self.plain)):
                found = bits(f, x, sizes=(1, 7), compared=self.options.compared if name == "lattice" else 100)
                self.write(
                    "bits", model=name, kind=kind, inputs=found.inputs, idempotent=found.idempotent, largest=found.largest,
                    compared=found.compared, equal=found.equal, ok=found.ok,
                )  # fmt: skip

    def errors(self) -> None:
        """Point 2: errors of idempotency on, near and far from the data."""
        usual = baseline(UsualIdempotent, self.options.out, self.options.data, self.options.minutes)
        maps: dict[str, Sampler] = {"lattice": self.f, "plain": self.plain, "usual loss": usual.samplers()["projected noise"]}
        for place, kinds in PLACES.items():
            for kind in kinds:
                x = inputs(kind, self.test[:1000])
                for name, f in maps.items():
                    found = idempotency_error(f, x)
                    self.write(
                        "errors", model=name, place=place, kind=kind, median=float(found.median()), largest=float(found.max())
                    )

    def quality(self) -> None:
        """Point 3: PSNR by rank, and what noise and drawn coordinates become."""
        ranks = [r for r in (1, 2, 4, 8, 16, 32, 64, 128, 256) if r < self.model.rank]
        curves: dict[str, tuple[list[float], list[float]]] = {}
        for rank in [*ranks, self.model.rank]:
            induced = principal_range(self.f, self.fitted, rank).project if rank < self.model.rank else partial(project, self.f)
            for name, g in (("induced", induced), ("principal components", PrincipalProjection(self.fitted, rank))):
                with torch.no_grad():
                    found = torch.cat([psnr(g(part), part) for part in self.test.split(500)])
                self.write("rank", projector=name, rank=rank, psnr=float(found.mean()), worst=float(found.min()))
                for list_, value in zip(curves.setdefault(name, ([], [])), (rank, float(found.mean())), strict=True):
                    list_.append(value)
        plain = float(psnr(project(self.plain, self.test), self.test).mean())
        difference = float(psnr(project(self.f, self.test), project(self.plain, self.test)).mean())
        self.write("rank", projector="induced, plain float32", rank=self.model.rank, psnr=plain, against_lattice=difference)
        title = f"Projections of {len(self.test)} held-out images: the mean PSNR to the image"
        line_plot(self.options.out / "psnr.png", curves, title=title, x_label="rank", y_label="PSNR in dB", log_x=True)
        one, each = RangeGaussian(self.f, self.fitted), RangeGaussian(self.f, self.fitted, self.labels)
        n, usual = self.options.samples, baseline(UsualIdempotent, self.options.out, self.options.data, self.options.minutes)
        seeds = noise(self.f, n, seed=1)
        drawn: dict[str, Callable[[], Tensor]] = {
            "projected noise": lambda: project(self.f, seeds),
            "projected noise of the digits' spectrum": lambda: project(self.f, noise(self.f, n, seed=1, like=self.fitted)),
            "one Gaussian": lambda: one.sample(n, seed=1),
            "a Gaussian a class": lambda: each.sample(n, seed=1),
            "a Gaussian a class, 0.7": lambda: each.sample(n, seed=1, temperature=0.7),
            "usual loss": lambda: torch.cat([usual.samplers()["projected noise"](part) for part in seeds.split(500)]),
        }
        for name, draw in drawn.items():
            images = draw()
            judged = quality(images, self.held_out)
            scores = {k: getattr(judged, k) for k in ("frechet", "precision", "recall", "confident", "imbalance")}
            self.write("samples", how=name, samples=n, **scores)
            picture = grid(
                to_uint8(images[:64].clamp(-1, 1 - 1 / 128)),
                columns=16,
                scale=2,
                caption=f"64 images drawn from the range of f: {name}",
            )
            save_picture(self.options.out / f"{re.sub('[^a-z0-9.]+', '-', name.lower())}.png", picture)
        rows = []
        for kind in KINDS:
            x = inputs(kind, self.test[:: max(1, len(self.test) // 12)][:12])
            rows += [(kind, to_uint8(x)), ("projected", to_uint8(project(self.f, x)))]
        captioned_rows(self.options.out / "projections.png", rows)
        self.classes()

    def classes(self) -> None:
        """Intersection and sum of what the projector knows of two classes."""
        a, b, rank = 3, 8, self.model.rank * 2 // 3
        A, B = (principal_range(self.f, self.fitted[self.labels == k], rank) for k in (a, b))
        subspaces = {f"{a}": A, f"{b}": B, f"{a} + {b}": A + B, f"{a} & {b}": A & B}
        labels = self.held_out.labels[torch.linspace(0, len(self.held_out) - 1, self.options.n).round().long()]
        rows = []
        for name, W in subspaces.items():
            for k in (a, b):
                x = self.test[labels == k]
                with torch.no_grad():
                    y = W.project(x)
                self.write("classes", subspace=name, dim=W.dim, digits=k, psnr=float(psnr(y, x).mean()))
                rows += [(f"{k} onto {name}", to_uint8(y[:12]))]
        captioned_rows(self.options.out / "classes.png", rows)

    def anomalies(self) -> None:
        """Point 4: AUROC of Fashion-MNIST against the digits."""
        other = to_unit(load("fashion-mnist", "test").images[: self.options.n])
        glow = baseline(Glow, self.options.out, self.options.data, self.options.minutes)
        components = PrincipalProjection(self.fitted, self.model.rank)

        @torch.no_grad()
        def surprise(x: Tensor) -> Tensor:
            """-log p(x) by the glow, a coordinate, without its constant."""
            assert isinstance(glow, Glow)
            parts = [glow.chart.at(DATA).forward_and_log_abs_det(part) for part in x.split(500)]
            return torch.cat([minus_log_density(z, torch.ones(())).mean(1) - volume / z.shape[-1] for z, volume in parts])

        scores: dict[str, Callable[[Tensor], Tensor]] = {
            "||x (-) f(x)||": partial(anomaly, self.f),
            "|x - f(x)|": lambda x: (x - project(self.f, x)).flatten(1).norm(dim=1),
            f"principal components, {self.model.rank}": components.distance,
            "likelihood of a glow": surprise,
        }
        for name, score in scores.items():
            self.write("anomalies", score=name, auroc=auroc(score(self.test), score(other)), images=len(other))

    def cost(self) -> None:
        """Milliseconds of CPU time for f, by how the shifts are computed."""
        ways = {"float32": self.plain, "float64": float64(self.model), "fixed point": self.f}
        for size in (1, 7, 64, 256):
            x, taken = torch.randn(size, *self.model.config.shape), dict[str, list[float]]()
            for _ in range(5):
                for name, f in ways.items():
                    began = time.process_time()
                    f(x)
                    taken.setdefault(name, []).append(1e3 * (time.process_time() - began))
            self.write("cost", batch=size, **{name: sorted(times)[len(times) // 2] for name, times in taken.items()})


def float64(model: Idempotent) -> Linearizer:
    """The model on the lattice with conditioners in float64, which makes a dependence on the batch rare and excludes none."""

    def on_lattice(part: Bijection) -> Bijection:
        if not isinstance(part, AdditiveCoupling):
            return part
        return LatticeCoupling(part.shape, part.conditioner, flip=part.flip, bits=model.config.bits)

    f = model.operator(exact=True)
    ours, theirs = (cast(list[Bijection], cast(Composition, chart).parts) for chart in (model.chart, f.domain.chart))
    cut = next((k for k, part in enumerate(ours) if isinstance(part, Flatten)), len(ours))
    return Linearizer(f.core, InducedSpace(Composition(*map(on_lattice, ours[:cut]), *theirs[cut:]))).eval()


SECTIONS = ("bits", "errors", "quality", "anomalies", "cost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder or exported model")
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU time of one thread for each baseline")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--n", type=int, default=10000, help="inputs of each kind")
    parser.add_argument("--compared", type=int, default=10000, help="of these, computed in batches of 1 and 7 too")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("runs/idempotent-measured"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    measure = Measure(options)
    for section in options.only:
        with torch.no_grad() if section in ("bits", "cost") else torch.enable_grad():
            getattr(measure, section)()


if __name__ == "__main__":
    main()
