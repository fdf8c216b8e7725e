"""What trained style transfer is: nearness to its teachers, interpolation, removal, cost, a style added afterwards.

    INDUCED_DATA=... python -m experiments.measure_style_transfer runs/style-transfer --baseline runs/feed-forward

The run is one of `induced train style-transfer`. The ordinary feed-forward student of equal size that it is compared with is
trained into --baseline with the settings and the pairs of the run by --train-baseline, which also resumes. Every section adds a
line to results.jsonl in --out; --only names the sections.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from applications.common.data import to_uint8
from applications.common.data.pictures import read_picture, unit
from applications.common.figures import captioned_rows
from applications.common.kinds import load_model
from applications.common.perceptual import perceptual
from applications.common.runs import Run
from applications.common.training import TrainingConfig
from applications.style_transfer.algebra import distances, low_rank, mix, principal_styles, restyle, strength
from applications.style_transfer.config import IDENTITY, Config, ModelConfig, ObjectiveConfig
from applications.style_transfer.model import StyleTransfer, build
from applications.style_transfer.new_style import fit_kernel, refine_kernel
from applications.style_transfer.photographs import SMALLEST, photographs, random_crop
from applications.style_transfer.teacher import load_teacher
from applications.style_transfer.train import train
from benchmarks.common import ROOT, seconds, table
from experiments.lines import line_plot
from experiments.stylised import fidelity, plain_crops, removal, walk
from induced.serialization import register

SECTIONS = ("nearness", "sensitivity", "interpolation", "removal", "algebra", "cost", "added")
PAIRS = (("mosaic", "candy"), ("rain_princess", "udnie"), ("candy", "rain_princess"))


class FeedForward(nn.Module):
    """The network that a user would otherwise distil into: squeezed residual blocks with conditional instance normalization.

    A scale and shift for each style, as Dumoulin et al. (2017); as many parameters as a `StyleTransfer`. No algebra, no tiles.
    """

    def __init__(self, config: ModelConfig, width: int, blocks: int = 8) -> None:
        super().__init__()
        self.config, self.width, self.squeeze, C = config, width, config.stride, config.channels
        self.first, self.last = nn.Conv2d(C, width, 3, padding=1), nn.Conv2d(width, C, 3, padding=1)
        self.before = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.after = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.styles = nn.Embedding(len(config.names) - len(config.added), 2 * width * blocks)
        with torch.no_grad():
            self.styles.weight.mul_(0.1)
            for convolution in (*self.after, self.last):
                convolution.weight.mul_(0.1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        z = F.pixel_unshuffle(x, self.squeeze)
        modulations = self.styles(style).reshape(len(style), len(self.before), 2, -1, 1, 1)
        h = self.first(z)
        for i, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            scale, shift = modulations[:, i, 0], modulations[:, i, 1]
            h = h + after(F.silu(F.instance_norm(before(h)) * (1 + scale) + shift))
        out: Tensor = F.pixel_shuffle(z + self.last(F.silu(h)), self.squeeze)
        return out


def _tupled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a record, whose lists are tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def _built(hidden: int, **settings: Any) -> FeedForward:
    return FeedForward(ModelConfig(**_tupled(settings)), hidden)


register(
    FeedForward, describe=lambda net: asdict(net.config) | {"hidden": net.width}, build=_built, name="benchmarks.FeedForward"
)


def feed_forward(config: ModelConfig) -> FeedForward:
    """The widest baseline that has no more parameters than the model."""
    most, width = parameters(build(config)), 8
    while parameters(FeedForward(config, width + 1)) <= most:
        width += 1
    return FeedForward(config, width)


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters())


def settings_of(run: Path) -> Config:
    """The configuration that a run was trained with."""
    record = Run(run).config()
    return Config(
        **record["pairs"],
        cache_gb=math.inf,
        model=ModelConfig(**_tupled(record["model"])),
        objective=ObjectiveConfig(**_tupled(record["objective"])),
        training=TrainingConfig(**_tupled(record["training"])),
    )


def nearness(model: StyleTransfer, baseline: nn.Module | None, out: Path, n: int, seed: int) -> dict[str, object]:
    """1: PSNR, SSIM and ST-LPIPS to the teacher on held-out crops, beside the photographs' distance to it."""
    x, distance = unit(plain_crops("embedded", 256, n, seed)), perceptual(None, "st-lpips")
    rows, found, shown = [], dict[str, object](), [("photograph", to_uint8(x[:6]))]
    for style in model.config.styles:
        teacher, number = load_teacher(style), torch.tensor([model.config.names.index(style)])
        students: dict[str, Callable[[Tensor], Tensor]] = {"charts": model.operator(style, 256, 256)}
        if baseline is not None:
            students["feed-forward"] = partial(baseline, style=number)
        for name, student in students.items():
            scores = fidelity(student, teacher, x, distance)
            found[f"{style} {name}"] = asdict(scores) | {"ratio": scores.ratio}
            values = (scores.psnr, scores.content_psnr, scores.ssim, scores.perceptual, scores.content, scores.ratio)
            rows.append([f"{style}, {name}", *(f"{value:.3f}" for value in values)])
        with torch.no_grad():
            shown.append((f"{style}: teacher", to_uint8(teacher(x[:6]))))
            shown += [(name, to_uint8(student(x[:6]))) for name, student in students.items()]
    table(
        f"{n} held-out crops of 256 px: students against teachers",
        ["style, student", "PSNR", "photograph's", "SSIM", "ST-LPIPS", "photograph's", "ratio"],
        rows,
    )
    captioned_rows(out / "nearness.png", shown)
    return found


def sensitivity(model: StyleTransfer, n: int, more: int = 16, margin: int = 48) -> dict[str, object]:
    """How much a teacher's own picture changes with what a student cannot know: pixels around the crop, and eight bits.

    Distances within the crop, away from its border, over the photograph's: no student can be asked to be nearer than these.
    """
    wide, distance = unit(plain_crops("embedded", 256 + 2 * more, n)), perceptual(None, "st-lpips")
    rows, found, generator = [], dict[str, object](), torch.Generator().manual_seed(0)
    inner, around = slice(margin, -margin), slice(more + margin, -more - margin)
    crop = slice(more, -more)
    for style in model.config.styles:
        teacher, ratios = load_teacher(style), []
        for big in torch.split(wide, 1):
            x = big[..., crop, crop]
            noise = (2 * torch.rand(x.shape, generator=generator) - 1) / 255
            with torch.no_grad():
                y = teacher(x)[..., inner, inner]
                others = teacher(big)[..., around, around], teacher(x + noise)[..., inner, inner]
                ratios.append([distance(other, y) / distance(x[..., inner, inner], y) for other in others])
        surroundings, rounding = torch.tensor(ratios).mean(0).tolist()
        found[style] = {"surroundings": surroundings, "rounding": rounding}
        rows.append([style, f"{surroundings:.3f}", f"{rounding:.3f}"])
    table(
        "a teacher against itself: ratio of ST-LPIPS", ["style", f"{more} more pixels around", "half a grey level of noise"], rows
    )
    return found


def interpolation(model: StyleTransfer, out: Path) -> dict[str, object]:
    """2: distances along the way between two styles, and strips of it."""
    x, distance, found = unit(plain_crops("embedded", 256, 3)), perceptual(None, "st-lpips"), dict[str, object]()
    rows, strips = [], []
    for first, second in PAIRS:
        if not {first, second} <= set(model.config.names):
            continue
        for i, photograph in enumerate(x):
            pictures, path = walk(model, photograph[None], first, second, distance)
            found[f"{first} to {second}, photograph {i}"] = asdict(path) | {"monotone": path.monotone, "jump": path.largest_jump}
            rows.append([f"{first} to {second}, {i}", str(path.monotone), f"{path.largest_jump:.2f}"])
            strips.append((f"{first} to {second}", to_uint8(pictures)))
    table("interpolation in 9 steps", ["pair, photograph", "monotone", "largest step / mean step"], rows)
    captioned_rows(out / "interpolation.png", strips)
    return found


def removals(model: StyleTransfer, out: Path, n: int) -> dict[str, object]:
    """3: photograph -> style -> pseudoinverse, for several cut-offs of the singular values, against the conditioning."""
    x, found, rows = unit(plain_crops("embedded", 256, n)), dict[str, object](), []
    inverted, own, rounded = list[float](), list[float](), list[float]()
    for rtol in (None, 1e-3, 1e-2, 3e-2, 1e-1):
        scores = {style: removal(model, style, x, rtol) for style in model.config.names}
        for style, score in scores.items():
            found[f"{style} rtol {rtol}"] = asdict(score)
            rows.append([f"{style}, rtol {rtol}", f"{score.exact:.1f}", f"{score.rounded:.1f}", f"{score.cond:.3g}"])
        inverted.append(mean(s.cond if rtol is None else min(s.cond, 1 / rtol) for s in scores.values()))
        own.append(mean(s.exact for s in scores.values()))
        rounded.append(mean(s.rounded for s in scores.values()))
    table("style put on and removed: PSNR in dB", ["style", "own pictures", "8 bits", "condition number"], rows)
    line_plot(
        out / "removal.png",
        {"from the model's own picture": (inverted, own), "from 8 bits": (inverted, rounded)},
        title="A style put on and taken off again: what comes back",
        x_label="condition number of what is inverted: the core's, or 1 / rtol",
        y_label="PSNR to the photograph in dB",
        log_x=True,
    )
    return found


def algebra(model: StyleTransfer, out: Path) -> dict[str, object]:
    """The rest of the algebra, drawn: mixtures, strengths, restyling, low-rank parts; distances and components of the styles."""
    x = unit(plain_crops("embedded", 256, 1))
    styles, names = model.at(256, 256), model.config.styles
    first, second = names[0], names[-1]
    with torch.no_grad():
        f, h = styles[first], styles[second]
        strengths = torch.cat([strength(styles, f, a)(x) for a in (0.0, 0.5, 1.0, 1.5)])
        ranks = torch.cat([low_rank(styles, f, r)(x) for r in (0, 1, 4, model.config.channels)])
        restyled = torch.cat([f(x), restyle(f, h)(f(x)), h(x), mix(styles, dict.fromkeys(names, 1 / len(names)))(x)])
    captioned_rows(
        out / "algebra.png",
        [
            (f"{first}, strength 0 to 1.5", to_uint8(strengths)),
            (f"{first}, rank 0, 1, 4, all", to_uint8(ranks)),
            (f"{first}; to {second}; {second}; all mixed", to_uint8(restyled)),
        ],
    )
    between, principal = distances(styles), principal_styles(styles)
    table(
        "distances of the styles as operators",
        ["", *model.config.names],
        [[name, *(f"{v:.3f}" for v in row)] for name, row in zip(model.config.names, between.tolist(), strict=True)],
    )
    print("principal components explain", " ".join(f"{v:.1%}" for v in principal.explained.tolist()))
    return {"distances": between.tolist(), "explained": principal.explained.tolist(), "scores": principal.scores.tolist()}


def cost(model: StyleTransfer, baseline: nn.Module | None) -> dict[str, object]:
    """4a: CPU seconds per megapixel on one thread, at 256 and 512 px."""
    found, rows, style = dict[str, object](), [], model.config.styles[0]
    teacher, number = load_teacher(style), torch.tensor([1])
    for side in (256, 512):
        x = torch.rand(1, 3, side, side) * 1.8 - 0.9
        f = model.operator(style, side, side)
        forms: dict[str, Callable[[], object]] = {
            "teacher": partial(teacher, x),
            "charts": partial(f, x),
            "all styles, charts": partial(all_styles, model, x, side),
        }
        if baseline is not None:
            forms["feed-forward"] = partial(baseline, x, number)
        with torch.no_grad():
            times = {name: value * 1e6 / side**2 for name, value in seconds(forms).items()}
        found[str(side)] = times
        rows += [[f"{name}, {side} px", f"{t:.2f}", f"{t / times['teacher']:.2f}"] for name, t in times.items()]
    table("CPU seconds per megapixel", ["", "seconds", "of the teacher's"], rows)
    return found


def all_styles(model: StyleTransfer, x: Tensor, side: int) -> Tensor:
    """Every style of one picture: g_x once, and a core and g_y^-1 for each."""
    styles = model.at(side, side)
    z = styles.domain.coords(x)
    cores = (styles[name].core(z) for name in model.config.names)
    return styles.codomain.point(torch.cat(list(cores)))


def added(model: StyleTransfer, style: str, out: Path, crops: int, steps: int, n: int) -> dict[str, object]:
    """4b: a style that the charts were not trained for (of --without), or one that they were, from its core alone."""
    teacher, generator, distance = load_teacher(style), torch.Generator().manual_seed(0), perceptual(None, "st-lpips")
    known = [read_picture(path, SMALLEST).colours for path in photographs("embedded", "train").values()]
    x = unit(torch.stack([torch.from_numpy(random_crop(known[i % len(known)], 256, generator)) for i in range(crops)]))
    test = unit(plain_crops("embedded", 256, n))
    with torch.no_grad():
        y = torch.cat([teacher(part) for part in torch.split(x, 1)])
    found, rows, shown = dict[str, object](), [], [("photograph", to_uint8(test[:6]))]
    styles = model.at(256, 256)

    def judged(name: str, kernel: Tensor, spent: float) -> None:
        f = styles.operator(kernel)
        scores = fidelity(f, teacher, test, distance)
        found[name] = asdict(scores) | {"ratio": scores.ratio, "seconds": spent}
        rows.append([name, f"{scores.psnr:.2f}", f"{scores.perceptual:.3f}", f"{scores.ratio:.2f}", f"{spent:.1f}"])
        with torch.no_grad():
            shown.append((name, to_uint8(f(test[:6]))))

    judged("identity", styles.kernels[styles.index(IDENTITY)], 0.0)
    start = time.process_time()
    kernel = fit_kernel(model, x, y)
    judged("closed form", kernel, time.process_time() - start)
    for name, loss in (("pixels", None), ("pixels, ST-LPIPS", distance.requires_grad_(False))):
        start = time.process_time()
        refined = refine_kernel(model, kernel, x, y, steps=steps, distance=loss)
        judged(f"{steps} steps more: {name}", refined, time.process_time() - start)
    if style in model.config.names:
        judged("trained with the charts", styles.kernels[styles.index(style)], 0.0)
    with torch.no_grad():
        shown.append(("teacher", to_uint8(teacher(test[:6]))))
    table(f"{style} added by its core alone", ["", "PSNR", "ST-LPIPS", "ratio", "CPU seconds"], rows)
    captioned_rows(out / f"added-{style}.png", shown)
    return found


def main() -> None:
    """Measure the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder or exported model")
    parser.add_argument("--baseline", type=Path, default=None, help="run folder of the feed-forward student")
    parser.add_argument("--train-baseline", action="store_true", help="train it first, or go on")
    parser.add_argument("--baseline-rate", type=float, default=None, help="its learning rate; that of the run if absent")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/style-transfer-measured")
    parser.add_argument(
        "--only", nargs="*", default=["nearness", "sensitivity", "interpolation", "removal", "algebra", "cost", "added"]
    )
    parser.add_argument("--style", default="pointilism", help="style that is added")
    parser.add_argument("--crops", type=int, default=40, help="crops that its core is fitted to")
    parser.add_argument("--steps", type=int, default=200, help="steps of its short run")
    parser.add_argument("--n", type=int, default=50, help="held-out crops of 256 px")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    if args.train_baseline:
        if args.baseline is None:
            parser.error("--train-baseline needs a folder, --baseline")
        config = settings_of(args.run)
        rate = args.baseline_rate or config.training.learning_rate
        config = replace(config, training=replace(config.training, learning_rate=rate))
        torch.manual_seed(config.training.seed)
        train(config, Run(args.baseline), model=feed_forward(config.model), resume=bool(Run(args.baseline).checkpoints()))
    model, baseline = load_model(args.run, StyleTransfer), None
    if args.baseline is not None:
        baseline = load_model(args.baseline, FeedForward)
        print(f"{parameters(model):,} parameters, the feed-forward student has {parameters(baseline):,}")
    sections: dict[str, Callable[[], dict[str, object]]] = {
        "nearness": lambda: nearness(model, baseline, args.out, args.n, args.seed),
        "sensitivity": lambda: sensitivity(model, min(args.n, 12)),
        "interpolation": lambda: interpolation(model, args.out),
        "removal": lambda: removals(model, args.out, min(args.n, 12)),
        "algebra": lambda: algebra(model, args.out),
        "cost": lambda: cost(model, baseline),
        "added": lambda: added(model, args.style, args.out, args.crops, args.steps, args.n),
    }
    for name in args.only:
        found = sections[name]()
        with (args.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"section": name, "run": str(args.run)} | found) + "\n")


if __name__ == "__main__":
    main()
