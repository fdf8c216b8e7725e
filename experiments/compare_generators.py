"""Generators of images at an equal training budget: this one-step model, flow matching with a U-Net, and a glow by likelihood.

    python -m experiments.compare_generators --minutes 20 --out runs/compare [--models ours couplings vanilla glow]
    python -m experiments.compare_generators --data avatars64 --minutes 40 --models ours vanilla --out runs/faces

Each is trained for the same CPU time of one thread, on the same data with the same batch, by the same loop (Adam, linear warmup
and a cosine over the budget, moving average), and judged by the same features (`applications/flow_matching/evaluate.py`) of as
many samples. A model that is in --out already is only judged.
"""

import argparse
import copy
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from applications.common.data import ImageSet, Source, Tensors, load, to_uint8
from applications.common.data.pixels import unit_shape
from applications.common.data.source import Batch
from applications.common.figures import captioned_rows, grid, save_picture
from applications.common.quality import quality
from applications.common.randomness import Asked, Draws, drawn
from applications.common.training import Objective
from applications.flow_matching.config import Config
from applications.flow_matching.model import DATA, build
from applications.flow_matching.objective import FlowMatchingObjective, LatentObjective, minus_log_density
from applications.flow_matching.train import training_set
from experiments.ablation import changed
from induced.bijections.networks import UNet

BATCH, WARMUP, NUMBERS = 64, 50, 500 * 2**10
Sampler = Callable[[Tensor], Tensor]  # noise images to samples


class Contender(nn.Module, ABC):
    """A model, its loss, and how to draw from it."""

    rate = 2e-3
    stages: tuple[tuple[float, int], ...] = ((1.0, 0),)  # share of the budget, batch; 0: that of the data

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor: ...

    @property
    def kept(self) -> nn.Module:
        """What samples are drawn with."""
        return self

    @abstractmethod
    def samplers(self) -> dict[str, Sampler]: ...

    def enter(self, stage: int, data: ImageSet) -> Source:
        """Prepare a stage; what it is trained on."""
        return data

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        """Set what depends on data, before the first step."""

    def finish(self, data: ImageSet) -> None:
        """Set what depends on all of them, after the last."""


Trained = TypeVar("Trained", bound=Contender)


class Ours(Contender):
    """The model and objective of `induced train flow-matching`."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.flow = build(self.config.model)
        self.objective: Objective = FlowMatchingObjective(self.flow, self.config.objective)
        if self.flow.density and self.config.model.noise_space == "euclidean":
            # a mixture is fitted in seconds, once images are encoded
            second = () if self.flow.mixture is not None else ((0.2, self.config.latent_batch),)
            self.stages = (0.8 if second else 0.95, 0), *second

    def enter(self, stage: int, data: ImageSet) -> Source:
        if stage == 0:
            return data
        self.objective = LatentObjective(self.flow, self.config.objective)
        return Tensors(data.name, {"coordinates": self.flow.encode_leading(data.images)})

    def finish(self, data: ImageSet) -> None:
        if self.flow.mixture is not None:
            self.flow.encode_leading(data.images, data.labels)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        n = len(next(iter(batch.values())))
        return self.objective(batch, numbers(self.objective.draw(n, generator), n, generator))["loss"]

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        n = len(next(iter(batch.values())))
        self.objective.initialize(batch, numbers(self.objective.draw(n, generator), n, generator))

    @property
    def kept(self) -> nn.Module:
        return self.flow

    def samplers(self) -> dict[str, Sampler]:
        return {"one step": self.flow.operator()}


class Vanilla(Contender):
    """x' = v(x, t) with a U-Net v of as many parameters; loss |v(x_t, t) - (x_1 - x_0)|^2."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = UNet(shape, shape[0], 32, context=9, depth=3)

    def field(self, x: Tensor, t: Tensor) -> Tensor:
        angles = math.pi * t[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0])
        return self.net(x, torch.cat([t[:, None], angles.sin(), angles.cos()], -1))

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        x = batch["images"]
        x0, t = torch.randn(x.shape, generator=generator), torch.rand(len(x), generator=generator)
        s = t[:, None, None, None]
        return ((self.field((1 - s) * x0 + s * x, t) - (x - x0)) ** 2).mean()

    def samplers(self) -> dict[str, Sampler]:
        def euler(steps: int, x: Tensor) -> Tensor:
            for k in range(steps):
                x = x + self.field(x, torch.full((len(x),), k / steps)) / steps
            return x

        return {f"{steps} Euler steps": partial(euler, steps) for steps in (1, 2, 4, 10, 100)}


class Glow(Contender):
    """The chart of the data end alone, by likelihood under N(0, I)."""

    rate = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.chart = build(replace(COUPLINGS.model, max_log_scale=1.0)).chart

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        z, volume = self.chart.at(DATA).forward_and_log_abs_det(batch["images"])
        return minus_log_density(z, torch.ones(())).mean() - volume.mean() / z.shape[-1]

    def start(self, batch: Batch, generator: torch.Generator) -> None:
        self.chart.at(DATA).initialize(batch["images"])

    def samplers(self) -> dict[str, Sampler]:
        def at(temperature: float, x: Tensor) -> Tensor:
            return inverse(temperature * x.flatten(1))

        inverse = self.chart.at(DATA).inverse
        return {f"temperature {s}": partial(at, s) for s in (1.0, 0.7)}


COUPLINGS = changed(Config(), ({"components": 0, "rank": 16, "blocks": 6, "dense_width": 128}, {"latent_noise": 0.2}))
"""Couplings in place of the mixture, and the encoder that was made for them."""
BASE = changed(COUPLINGS, ({"max_log_scale": 0.25}, {"prior": 10.0, "perceptual": 0.0}))
"""The settings that `ablate_flow_matching.py` varies."""
FACES = changed(
    Config(data="avatars64"),
    (
        {
            "shape": (3, 64, 64),
            "blocks": 4,
            "widths": (16, 32, 64, 96),
            "dense_width": 128,
            "rank": 64,
            "components": 200,
            "floor": 0.2,
        },
        {},
    ),
)
SETTINGS: dict[str, tuple[Config, int]] = {"avatars64": (FACES, 32)}
"""What images of other kinds than digits take: settings, and images a step."""
CONTENDERS: dict[str, Callable[[Config], Contender]] = {
    "ours": Ours,
    "vanilla": lambda config: Vanilla(config.model.shape),
    "glow": lambda _: Glow(),
    "couplings": lambda _: Ours(COUPLINGS),
    "base": lambda _: Ours(BASE),
}


def numbers(asked: Asked, n: int, generator: torch.Generator) -> Draws:
    """The random numbers that n rows ask for, from a seed that the generator draws."""
    return drawn([asked], n, int(torch.randint(2**31, (), generator=generator)), 0)[0]


def train(model: Trained, data: ImageSet, seconds: float, seed: int, batch: int = BATCH) -> tuple[Trained, int]:
    """The moving average after so much CPU time, and the steps that were done."""
    generator, steps = torch.Generator().manual_seed(seed), 0
    for stage, (share, size) in enumerate(model.stages):
        model, done = train_stage(model, data, stage, size or batch, share * seconds, generator)
        print(f"  stage {stage + 1}: {done} steps of {size or batch}", flush=True)
        steps += done
    began = time.process_time()
    model.finish(data)
    print(f"  the rest: {time.process_time() - began:.0f} s", flush=True)
    return model, steps


def train_stage(
    model: Trained, data: ImageSet, stage: int, size: int, seconds: float, generator: torch.Generator
) -> tuple[Trained, int]:
    began = time.process_time()
    points = model.enter(stage, data)

    def batch() -> Batch:
        chosen = torch.randint(len(points), (size,), generator=generator)
        return points.randomised(chosen, numbers(points.draw(size, generator), size, generator))

    with torch.no_grad():
        model.start(batch(), generator)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, average, steps = torch.optim.Adam(trained, lr=model.rate), copy.deepcopy(model), 0
    while (share := (time.process_time() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = model.rate * min(1.0, (steps + 1) / WARMUP) * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
        optimizer.zero_grad()
        model.loss(batch(), generator).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        steps += 1
        with torch.no_grad():
            decay = min(0.999, (1 + steps) / (10 + steps))
            for mine, new in zip(average.parameters(), model.parameters(), strict=True):
                mine.lerp_(new, 1 - decay)
    average.load_state_dict({**model.state_dict(), **dict(average.named_parameters())})
    return average, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU time of one thread for each model")
    parser.add_argument("--models", nargs="+", choices=list(CONTENDERS), default=["ours", "vanilla", "glow"])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    real, (config, batch) = load(options.data, "test"), SETTINGS.get(options.data, (Config(data=options.data), BATCH))
    x0 = torch.randn(options.samples, *unit_shape(real.images)[1:], generator=torch.Generator().manual_seed(options.seed))
    rows: list[tuple[str, Tensor]] = []
    for name in options.models:
        torch.manual_seed(options.seed)
        model, weights = CONTENDERS[name](config), options.out / f"{name}.safetensors"
        size = sum(p.numel() for p in model.kept.parameters())
        if weights.exists():
            model.kept.load_state_dict(load_file(weights))
            print(f"{name}: {size:,} parameters, from {weights}", flush=True)
        else:
            model, steps = train(model, training_set(config), 60 * options.minutes, options.seed, batch)
            save_file({key: value.contiguous() for key, value in model.kept.state_dict().items()}, weights)
            print(f"{name}: {size:,} parameters, {steps} steps in {options.minutes:g} minutes of CPU time", flush=True)
        model.eval().requires_grad_(False)
        for how, sampler in model.samplers().items():
            began = time.process_time()
            images = torch.cat([sampler(part) for part in x0.split(NUMBERS // x0[0].numel())])
            taken = 1e3 * (time.process_time() - began) / len(x0)
            found = quality(images, real)
            scores = (f"{key} {getattr(found, key):.3f}" for key in ("frechet", "precision", "recall", "confident", "imbalance"))
            print(f"  {name:<8} {how:<16} {'  '.join(scores)}  {taken:.2f} ms an image", flush=True)
            record = {"model": name, "sampler": how, "milliseconds": taken, **asdict(found)}
            with (options.out / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            shown = to_uint8(images[:64].clamp(-1, 1 - 1 / 128))
            picture = grid(shown, columns=16, scale=2, caption=f"64 samples of {name}, {how}")
            save_picture(options.out / f"{name}-{how.replace(' ', '-')}.png", picture)
            rows.append((f"{name}, {how}", shown[:16]))
    captioned_rows(options.out / "samples.png", rows)


if __name__ == "__main__":
    main()
