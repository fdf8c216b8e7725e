"""What each choice of the idempotent generator is worth: the default with one thing changed, at an equal training budget.

    INDUCED_DATA=... python -m experiments.ablate_idempotent --minutes 5 --out runs/idempotent-ablation [--only "3 blocks"]

Each is trained on the embedded digits (4,500) for the same CPU time of one thread, by the loop of `compare_generators`, from
the same seed, and judged by MNIST's test images. Variants that differ in the lattice alone share the default's weights. What is
in --out already is not trained again.
"""

from dataclasses import replace

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from applications.common.data import ImageSet, Source, load, to_unit
from applications.common.data.sets import training_images
from applications.common.data.source import Batch
from applications.common.metrics import auroc, psnr
from applications.common.quality import quality
from applications.idempotent.config import Config
from applications.idempotent.inputs import inputs
from applications.idempotent.model import Idempotent, build
from applications.idempotent.objective import IdempotentObjective, isometry
from applications.idempotent.sampling import RangeGaussian, anomaly, noise, project
from applications.idempotent.train import start
from experiments.ablation import Variants, ablate, changed, options
from experiments.compare_generators import Contender, Sampler, numbers, train
from experiments.measure_idempotent import idempotency_error

VARIANTS: Variants = {
    "the default": ({}, {}),
    "basis of the coordinates": ({"basis": "coordinates"}, {}),
    "soft to hard": ({"hardening": 300}, {}),
    "basis of the coordinates, soft to hard": ({"basis": "coordinates", "hardening": 300}, {}),
    "mask by penalty, hard": ({"basis": "coordinates", "rank": None}, {}),
    "mask by penalty, soft to hard": ({"basis": "coordinates", "rank": None, "hardening": 300}, {}),
    "mask by a tenth of the penalty, soft to hard": ({"basis": "coordinates", "rank": None, "hardening": 300}, {"kept": 0.03}),
    "without isometry": ({}, {"isometry": 0.0}),
    "isometry 1e-2": ({}, {"isometry": 1e-2}),
    "isometry 1e-1": ({}, {"isometry": 1e-1}),
    "3 blocks": ({"blocks": 3}, {}),
    "9 blocks": ({"blocks": 9}, {}),
    "rank 16": ({"rank": 16}, {}),
    "rank 32": ({"rank": 32}, {}),
    "rank 128": ({"rank": 128}, {}),
    "wide conditioners": ({"widths": (32, 64, 96, 128)}, {}),
    "8 bits": ({"bits": 8}, {}),
    "10 bits": ({"bits": 10}, {}),
    "14 bits": ({"bits": 14}, {}),
    "16 bits": ({"bits": 16}, {}),
    "weights and activations of 8 bits": ({"weight_bits": 8, "activation_bits": 8}, {}),
    "weights and activations of 12 bits": ({"weight_bits": 12, "activation_bits": 12}, {}),
}
LATTICE = {"bits", "weight_bits", "activation_bits"}


class Ours(Contender):
    """The model and objective of `induced train idempotent`."""

    rate = 2e-3

    def __init__(self, config: Config, data: ImageSet) -> None:
        super().__init__()
        self.objective: IdempotentObjective = start(config, data)
        self.steps = 0

    def enter(self, stage: int, data: ImageSet) -> Source:
        self.train()
        return replace(data, noise=False)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        n = len(batch["images"])
        self.objective.begin(self.steps)
        self.steps += 1
        return self.objective(batch, numbers(self.objective.draw(n, generator), n, generator))["loss"]

    def samplers(self) -> dict[str, Sampler]:
        return {"projected noise": self.objective.model.operator()}


@torch.no_grad()
def measure(model: Idempotent, real: ImageSet, other: ImageSet, samples: int, seed: int) -> dict[str, float]:
    """What the table shows."""
    known = load("mnist5k", "train")
    x, strange = (to_unit(images.spread(samples).images) for images in (real, other))
    f, plain, few = model.operator(exact=True), model.operator(exact=False), x[:100]
    found = {
        "rank": float(model.rank),
        "psnr": float(psnr(project(f, x), x).mean()),
        "psnr_plain": float(psnr(project(plain, x), x).mean()),
        "lattice_to_plain_db": float(psnr(project(f, x), project(plain, x)).mean()),
        "isometry": float(isometry(model.chart, few, noise(plain, len(few), seed))),
        "error_lattice": float(idempotency_error(f, x).max()),
        "error_plain_on_data": float(idempotency_error(plain, x).median()),
        "error_plain_on_noise": float(idempotency_error(plain, inputs("normal noise", x)).median()),
        "auroc": auroc(anomaly(f, x), anomaly(f, strange)),
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }
    drawn = {
        "noise": project(f, noise(f, samples, seed)),
        "gaussian": RangeGaussian(f, to_unit(known.images), known.labels).sample(samples, seed),
    }
    for name, images in drawn.items():
        score = quality(images, real)
        found |= {f"{name}_{key}": getattr(score, key) for key in ("frechet", "confident", "imbalance")}
    return found


def main() -> None:
    asked = options(__doc__, VARIANTS, "runs/idempotent-ablation")
    data = training_images(Config().data, Config().model.shape)
    real, other = load("mnist", "test"), load("fashion-mnist", "test")

    def judge(name: str) -> dict[str, float]:
        config = changed(Config(), VARIANTS[name])
        model, objective = VARIANTS[name]
        trained_as = "the default" if model.keys() <= LATTICE and not objective else name
        weights, steps = asked.out / f"{trained_as.replace(' ', '-')}.safetensors", 0
        if not weights.exists():
            trained, steps = train(Ours(config, data), data, 60 * asked.minutes, asked.seed)
            save_file({key: value.contiguous().clone() for key, value in trained.objective.model.state_dict().items()}, weights)
        judged = build(config.model)
        judged.load_state_dict(load_file(weights))
        judged.eval().requires_grad_(False)
        return {"steps": float(steps), **measure(judged, real, other, asked.samples, asked.seed)}

    ablate(asked, judge)


if __name__ == "__main__":
    main()
