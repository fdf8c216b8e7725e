"""What each choice of the idempotent generator is worth: the default with one thing changed, at an equal training budget.

    INDUCED_DATA=... python benchmarks/ablate_idempotent.py --minutes 5 --out runs/idempotent-ablation [--only "3 blocks"]

Each is trained on the embedded digits (4,500) for the same CPU time of one thread, by the loop of `compare_generators.py`, from
the same seed, and judged by MNIST's test images. Variants that differ in the lattice alone share the default's weights. What is
in --out already is not trained again.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from compare_generators import Contender, Sampler, train
from safetensors.torch import load_file, save_file
from torch import Tensor

from applications.common.data import ImageSet, Points, load, to_unit, training_images
from applications.common.metrics import auroc, psnr
from applications.common.quality import quality
from applications.idempotent.config import Config
from applications.idempotent.evaluate import PEAK, idempotency_error, reconstruction
from applications.idempotent.inputs import inputs
from applications.idempotent.model import Idempotent, build
from applications.idempotent.objective import IdempotentObjective, isometry
from applications.idempotent.sampling import RangeGaussian, anomaly, noise, project
from applications.idempotent.train import start

Changes = dict[str, object]
VARIANTS: dict[str, tuple[Changes, Changes]] = {
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

    def enter(self, stage: int, data: ImageSet) -> ImageSet | Points:
        self.train()
        return data

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        return self.objective(batch, self.objective.draw(len(batch), generator))["loss"]

    def samplers(self) -> dict[str, Sampler]:
        return {"projected noise": self.objective.model.operator()}


@torch.no_grad()
def measure(model: Idempotent, samples: int, seed: int) -> dict[str, float]:
    """What the table shows."""
    real, known, other = load("mnist", "test"), load("mnist5k", "train"), load("fashion-mnist", "test")
    x, strange = (to_unit(images.images[:: len(images) // samples][:samples]) for images in (real, other))
    f, plain, v = model.operator(exact=True), model.operator(exact=False), noise(model.operator(exact=False), 100, seed)
    found = {
        "rank": float(model.rank),
        "psnr": float(reconstruction(f, x).mean()),
        "psnr_plain": float(reconstruction(plain, x).mean()),
        "lattice_to_plain_db": float(psnr(project(f, x), project(plain, x), PEAK).mean()),
        "isometry": float(isometry(model.chart, x[:100], v)),
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="CPU time of one thread for each variant")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/idempotent-ablation"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    default, results = Config(), options.out / "results.jsonl"
    data = training_images(default.data, default.model.shape)
    done = {json.loads(line)["variant"] for line in results.read_text().splitlines()} if results.exists() else set[str]()
    for name in options.only:
        if name in done:
            continue
        model_changes, objective_changes = VARIANTS[name]
        config = replace(
            default, model=replace(default.model, **model_changes), objective=replace(default.objective, **objective_changes)
        )
        trained_as = "the default" if model_changes.keys() <= LATTICE and not objective_changes else name
        weights, model, steps = options.out / f"{trained_as.replace(' ', '-')}.safetensors", build(config.model), 0
        if not weights.exists():
            trained, steps = train(Ours(config, data), data, 60 * options.minutes, options.seed)
            save_file({key: value.contiguous().clone() for key, value in trained.objective.model.state_dict().items()}, weights)
        model.load_state_dict(load_file(weights))
        began = time.process_time()
        found = measure(model.eval().requires_grad_(False), options.samples, options.seed)
        record = {"variant": name, "steps": steps, "measured_in": time.process_time() - began, **found}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name:<44} {steps:>5} steps  " + "  ".join(f"{k} {v:.4g}" for k, v in found.items()), flush=True)


if __name__ == "__main__":
    main()
