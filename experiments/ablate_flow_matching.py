"""What each choice of one-step flow matching is worth: the default with one thing changed, at an equal training budget.

    python -m experiments.ablate_flow_matching --minutes 5 --out runs/ablation [--only "rank 16" "rank 32"]

Variants of `CHOICES` change the default, those of `VARIANTS` the base of an earlier design, with couplings for the density.

Each is trained on the embedded digits (4,500) for the same CPU time of one thread, by the loop of `compare_generators`, from
the same seed, and judged by MNIST's test images. A variant that is in --out already is not trained again.
"""

from dataclasses import asdict

import torch
from torch import Tensor

from applications.common.data import ImageSet, load, to_uint8, to_unit
from applications.common.data.pixels import unit_shape
from applications.common.figures import grid, save_picture
from applications.common.quality import quality
from applications.flow_matching.config import Config
from applications.flow_matching.evaluate import bits_per_dimension, inversion
from applications.flow_matching.model import CONDITIONERS, FlowMatching
from applications.flow_matching.sampling import noise
from applications.flow_matching.train import training_set
from experiments.ablation import Variants, ablate, changed, options
from experiments.attention import Attention
from experiments.compare_generators import BASE, Ours, train

END_POINT = {"prediction": "end point", "rest_std": None}, {"velocity": 0.0, "end_point": 1.0}
DEFAULT = Config()
CHOSEN = {"prior": DEFAULT.objective.prior, "perceptual": DEFAULT.objective.perceptual}
CONDITIONERS["attention"] = Attention
CHOICES: Variants = {
    "the default": ({}, {}),
    "couplings for the mixture": ({"components": 0}, {}),
    "one Gaussian a class": ({"components": 10}, {}),
    "200 Gaussians": ({"components": 200}, {}),
    "a floor of 0.1": ({"floor": 0.1}, {}),
    "rank 16": ({"rank": 16}, {}),
    "rank 32": ({"rank": 32}, {}),
    "six blocks": ({"blocks": 6}, {}),
    "dense couplings of width 128": ({"dense_width": 128}, {}),
    "noise of 0.2 on latents": ({}, {"latent_noise": 0.2}),
    "noise of 0.5 on latents": ({}, {"latent_noise": 0.5}),
    "three times the perceptual distance": ({}, {"perceptual": 12.0}),
    "attention in the couplings": ({"conditioner": "attention"}, {}),
}
# changes of the base; the last rows led from it to the couplings' default
VARIANTS: Variants = {
    "the base": ({}, {}),
    "g the identity": ({"chart": "identity"}, {}),
    "g linear": ({"chart": "linear"}, {}),
    "noise in the chart, told its end (paper)": ({"noise_space": "labelled"}, {}),
    "noise in the chart, not told": ({"noise_space": "shared"}, {}),
    "log-scales up to 1": ({"max_log_scale": 1.0}, {}),
    "base, rank 1": ({"rank": 1}, {}),
    "base, rank 4": ({"rank": 4}, {}),
    "base, rank 64": ({"rank": 64}, {}),
    "no `rest_std`: flat spectrum (paper)": ({"rest_std": None}, {}),
    "end point predicted (paper)": END_POINT,
    "end point loss in place of velocity": ({}, {"velocity": 0.0, "end_point": 1.0}),
    "with the decoded end point": ({}, {"end_point_image": 1.0}),
    "one shared basis": ({"family": "shared basis"}, {}),
    "without velocity": ({}, {"velocity": 0.0}),
    "without reconstruction": ({}, {"reconstruction": 0.0}),
    "without noise on latents": ({}, {"latent_noise": 0.0}),
    "without density": ({"density_blocks": 0}, {}),
    "without residual": ({}, {"residual": 0.0}),
    "with likelihood of the data": ({}, {"likelihood": 1.0}),
    "likelihood alone": (
        {"density_blocks": 0, "max_log_scale": 1.0},
        {"likelihood": 1.0, "reconstruction": 0.0, "prior": 0.0, "residual": 0.0},
    ),
    "U-Net conditioners": ({"conditioner": "unet"}, {}),
    "with the perceptual distance": ({}, {"perceptual": 4.0}),
    "a tenth of the prior": ({}, {"prior": 1.0}),
    "without prior": ({}, {"prior": 0.0}),
    "a tenth of the prior, with the perceptual distance": ({}, {"prior": 1.0, "perceptual": 4.0}),
    "without prior, with the perceptual distance": ({}, {"prior": 0.0, "perceptual": 4.0}),
    "the same, log-scales up to 0.2": ({"max_log_scale": DEFAULT.model.max_log_scale}, CHOSEN),
    "the same, log-scales up to 0.15": ({"max_log_scale": 0.15}, CHOSEN),
}


@torch.no_grad()
def measure(model: FlowMatching, real: ImageSet, samples: int, seed: int) -> tuple[dict[str, float], Tensor]:
    """What the table shows, and samples."""
    f = model.operator()
    few = real.images[:: len(real) // 100][:100]
    u = torch.rand(unit_shape(few), generator=torch.Generator().manual_seed(seed))
    images = torch.cat([f(part) for part in noise(model, samples, seed=seed).split(500)])
    finite = torch.isfinite(images).flatten(1).all(1)
    images = images.nan_to_num(0.0, 0.0, 0.0)
    found = {key: value for key, value in asdict(quality(images, real)).items() if isinstance(value, float)}
    values = f.svd().values
    inverted = inversion(f, to_unit(few))
    found |= {
        "finite": float(finite.double().mean()),
        "inversion_db": inverted.psnr_mean,
        "inversion_worst_db": inverted.psnr_min,
        "encoding_std": inverted.encoding_std,
        "condition": float(values[0] / values[-1]) if values[-1] > 0 else float("inf"),
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }
    if values[-1] > 0:
        found["bits_per_dimension"] = float(bits_per_dimension(f, few, u).mean())
    return found, images


def main() -> None:
    asked = options(__doc__, {**CHOICES, **VARIANTS}, "runs/ablation")
    data, real = training_set(DEFAULT), load("mnist", "test")

    def judge(name: str) -> dict[str, float]:
        config = changed(DEFAULT, CHOICES[name]) if name in CHOICES else changed(BASE, VARIANTS[name])
        trained, steps = train(Ours(config), data, 60 * asked.minutes, asked.seed)
        found, images = measure(trained.flow.eval().requires_grad_(False), real, asked.samples, asked.seed)
        pictures = grid(
            to_uint8(images[:64].clamp(-1, 1 - 1 / 128)), columns=16, scale=2, caption=f"{name}: 64 samples, each in one step"
        )
        save_picture(asked.out / f"{name.replace(' ', '-')}.png", pictures)
        return {"steps": float(steps), **found}

    ablate(asked, judge)


if __name__ == "__main__":
    main()
