"""The figures and pictures of docs/applications/flow_matching.md, for the pretrained model or a run.

    python -m experiments.measure_flow_matching [--run FOLDER] [--data mnist] [--samples 5000] [--out runs/figures]

Needs the data folder for all but mnist5k; what it lacks is said and left out.
"""

import argparse
import copy
import math
from itertools import permutations
from pathlib import Path
from statistics import mean

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from applications.common.classifier import digit_classifier
from applications.common.data import ImageSet, load, to_uint8, to_unit
from applications.common.data.pixels import unit_shape
from applications.common.figures import captioned_rows, grid, save_picture
from applications.common.metrics import auroc, psnr
from applications.common.options import ModelFolder
from applications.common.perceptual import ShiftTolerantLPIPS, perceptual
from applications.common.quality import quality
from applications.flow_matching import evaluate
from applications.flow_matching.model import DATA, FlowMatching
from applications.flow_matching.objective import velocity_loss
from applications.flow_matching.sampling import direction, encode, exact_times, interpolate, move, noise, sample
from benchmarks.common import seconds, table
from induced.errors import DataError
from induced.propagators import LowRankFamily

STEPS = (1, 10, 100, 1000)


def laws(model: FlowMatching, images: Tensor) -> None:
    print("laws at 8 held-out images: worst residual over tolerance, and the report closest to its tolerance")
    for dtype, reports in evaluate.axioms(model, images[:8]).items():
        judged = [report for report in reports if report.applies and report.tolerance > 0]
        closest = max(judged, key=lambda report: report.residual / report.tolerance)
        loosest = max(judged, key=lambda report: report.tolerance)
        print(f"  {dtype}: {sum(report.ok for report in reports)} of {len(reports)} hold")
        print(f"    closest  {closest}\n    loosest  {loosest}")


def one_step(model: FlowMatching) -> None:
    print("one step against T steps, 64 noise images")
    for row in evaluate.one_step(model, counts=STEPS):
        print(
            f"  {row.dtype} {row.method:<5} T={row.steps:<5} latent {row.latent_error:8.1e}  images {row.image_psnr:6.1f} dB  "
            f"condition {row.condition:.3g}"
        )
    for method in ("euler", "rk4"):
        print(f"order of convergence, {method}: {evaluate.convergence_order(model, method):.3f}")


def inversion(model: FlowMatching, images: Tensor, data: str) -> None:
    distance = perceptual(name="auto")
    for dtype in (torch.float32, torch.float64):
        m = evaluate.in_dtype(model, dtype)
        f, x = m.operator(), images.to(dtype)
        found = evaluate.inversion(f, x)
        apart = torch.cat([distance(f(encode(f, part)).float(), part.float()) for part in x.split(50)])
        name = "ST-LPIPS" if isinstance(distance, ShiftTolerantLPIPS) else "pyramid distance"
        print(
            f"inversion of {found.count} images ({data}), {dtype}: PSNR mean {found.psnr_mean:.1f} dB, "
            f"worst {found.psnr_min:.1f} dB, {name} mean {float(apart.mean()):.1e}, std of encodings {found.encoding_std:.3f}"
        )


def worst_inversions(model: FlowMatching, images: Tensor, data: str) -> None:
    f = model.operator()
    found = torch.cat([psnr(f(encode(f, part)), part) for part in images.split(250)]).sort().values
    low = ", ".join(f"{value:.1f}" for value in found[:5].tolist())
    print(f"inversion of {len(found)} images ({data}), float32: {int((found < 90).sum())} below 90 dB; the lowest {low}")


def spectrum(model: FlowMatching, images: Tensor) -> None:
    """The trained family beside the Gaussian oracle it starts at, whose velocity loss is pi/2 s for a coordinate N(0, s^2)."""
    values = model.operator().svd().values
    print(f"singular values of B: {', '.join(f'{v:.2f}' for v in values[: model.config.rank + 4].tolist())} ... {values[-1]:.3f}")
    z1, std = torch.cat([model.space(DATA).coords(part) for part in images.split(250)]), model.latent_std()
    order = torch.randperm(len(z1), generator=torch.Generator().manual_seed(1))  # images come sorted by class, times in order
    z0, t = torch.randn(z1.shape, generator=torch.Generator().manual_seed(2)), torch.arange(len(z1)).sub(-0.5) / len(z1)
    oracle = LowRankFamily(model.dim, model.config.rank, rest_std=model.config.rest_std)
    oracle.factors.zero_()
    trained, start = (float(velocity_loss(family, z0, z1[order], t)) for family in (model.family, oracle))
    gaussian, lead = float(std.mean()) * math.pi / 2, z1[:, : model.config.rank]
    print(f"velocity loss: trained {trained:.4f}, oracle's family {start:.4f}, of Gaussian coordinates {gaussian:.4f}")
    centre, off = float(lead.mean(0).abs().max()), float((torch.cov(lead.T) - torch.eye(lead.shape[1])).abs().max())
    print(f"leading coordinates: largest mean {centre:.2f}, covariance within {off:.2f} of I")


def samples(model: FlowMatching, real: ImageSet, n: int) -> None:
    x0 = noise(model, min(n, len(real)))
    operators = {f"{steps} RK4 steps": model.operator(steps) for steps in STEPS}
    operators["10 Euler steps"] = model.operator(10, "euler")
    operators["exact, Magnus"] = model.operator(exact_times(model), "magnus4")
    exact = sample(operators["exact, Magnus"], x0[:64])
    for name, f in operators.items():
        found = quality(sample(f, x0), real)
        apart = float(psnr(f(x0[:64]), exact).mean())
        print(
            f"samples, {name:<15} frechet {found.frechet:.1f}  precision {found.precision:.3f}  recall {found.recall:.3f}  "
            f"confident {found.confident:.3f}  imbalance {found.imbalance:.3f}  ({found.samples}, {found.features}); "
            f"PSNR to the exact sampler's {apart:.1f} dB"
        )


def guidance(model: FlowMatching, real: ImageSet, train: ImageSet, n: int) -> None:
    """Samples of one class, edits along differences of class means, and noise that is hotter, colder or truncated.

    The digit classifier judges samples and edits; it has no part in either.
    """
    judge, f, X = digit_classifier(), model.operator(), model.codes()
    for temperature, truncation in ((0.9, math.inf), (1.0, 2.0)):
        x0 = noise(model, min(n, len(real)), temperature=temperature, truncation=truncation)
        print(f"samples at temperature {temperature}, truncation {truncation}: {quality(sample(f, x0), real)}")
    if model.mixture is not None:
        drawn = [model.sample(300, torch.Generator().manual_seed(k), of_class=k) for k in range(10)]
        hits = [float(judge(x).argmax(-1).eq(k).float().mean()) for k, x in enumerate(drawn)]
        print(
            f"300 samples of each class: the classifier agrees with {mean(hits):.3f}; {', '.join(f'{hit:.2f}' for hit in hits)}"
        )
    means = [X.mean(to_unit(train.images[train.labels == k][:500])) for k in range(10)]
    found = {}
    for a, b in permutations(range(10), 2):
        x = to_unit(real.images[real.labels == a][:20])
        moved = X.add(x, X.sub(means[b][None], means[a][None]).expand_as(x))
        found[a, b] = float(judge(moved).argmax(-1).eq(b).float().mean())
    worst = min(found, key=found.__getitem__)
    print(f"20 edits for each of 90 pairs of classes, share that hits: {mean(found.values()):.3f}; {worst}: {found[worst]:.2f}")


def likelihood(model: FlowMatching, real: ImageSet, n: int) -> None:
    f, generator = model.operator(), torch.Generator().manual_seed(0)

    def bits(images: Tensor) -> Tensor:
        parts = images.split(250)
        u = [torch.rand(unit_shape(part), generator=generator) for part in parts]
        return torch.cat([evaluate.bits_per_dimension(f, part, v) for part, v in zip(parts, u, strict=True)])

    inside = bits(real.spread(min(n, len(real))).images)
    print(f"likelihood of {len(inside)} images of {real.name}: {float(inside.mean()):.3f} bits per dimension")
    try:
        other = load("fashion-mnist", "test")
    except DataError as error:
        return print(f"(no other data: {error})")
    if unit_shape(other.images)[1:] == model.config.shape:
        outside = bits(other.spread(min(n, len(other))).images)
        print(f"  {float(outside.mean()):.3f} of {len(outside)} of {other.name}; AUROC {auroc(inside, outside):.4f}")


def copies(model: FlowMatching, train: ImageSet, real: ImageSet, out: Path) -> None:
    """Are samples further from the training images than test images are?"""
    drawn, data = sample(model.operator(), noise(model, 500)), to_unit(train.images)
    known = NearestNeighbors(n_neighbors=1).fit(data.flatten(1).numpy())
    (distance, index), (usual, _) = (
        map(torch.from_numpy, known.kneighbors(x.flatten(1).numpy())) for x in (drawn, to_unit(real.spread(500).images))
    )
    ours, theirs = quartiles(distance), quartiles(usual)
    print(f"distance to the nearest of {len(train)} training images: 500 samples {ours}, 500 test images {theirs}")
    captioned_rows(
        out / "nearest.png", [("sample", to_uint8(drawn[:10])), ("nearest training image", to_uint8(data[index[:10, 0]]))]
    )


def quartiles(values: Tensor) -> str:
    low, middle, high = torch.quantile(values.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


WALK = "Each row: the induced segment between the encodings of two held-out images, both ends included"
EDIT = "Held-out images of class 4, moved by so many times the difference of the induced means of classes 9 and 4"


def pictures(model: FlowMatching, real: ImageSet, train: ImageSet, out: Path) -> None:
    f, images = model.operator(), to_unit(real.spread(80).images)
    scale = 2 if images.shape[-1] < 64 else 1
    drawn = to_uint8(f(noise(model, 64)))
    save_picture(out / "samples.png", grid(drawn, columns=16, scale=scale, caption="64 samples, each in one step"))
    x0 = encode(f, images[:80:8])
    rows = [("image", images[:80:8]), ("encoding / 3", x0 / 3), ("decoded", f(x0))]
    captioned_rows(out / "inversion.png", [(name, to_uint8(row)) for name, row in rows])
    strips = torch.cat([interpolate(f, images[k], images[k + 37], 10) for k in (1, 11, 21, 31)])
    save_picture(out / "interpolation.png", grid(to_uint8(strips), columns=10, scale=scale, caption=WALK))
    classes = [to_unit(train.images[train.labels == c][:500]) for c in (4, 9)]
    X, chosen = model.codes(), to_unit(real.images[real.labels == 4][:4])
    along = direction(X, *classes)
    amounts = torch.linspace(-0.5, 1.5, 9)
    edited, heads = (
        to_uint8(torch.cat([move(X, x, along, amounts) for x in chosen])),
        [f"{a:g}" for a in amounts.tolist()],
    )
    save_picture(out / "edit.png", grid(edited, columns=9, scale=scale, caption=EDIT, heads=heads))
    ranks = [(f"rank {k}", f.svd(k).reconstruct()(noise(model, 10))) for k in (1, 2, 4, 8, model.config.rank)]
    captioned_rows(out / "ranks.png", [(name, to_uint8(row)) for name, row in ranks])


def times(model: FlowMatching) -> None:
    f, x0 = model.operator(100), noise(model, 50, seed=4)
    space = model.space(DATA)
    found = seconds(
        {
            "one step": lambda: f(x0),
            "one step, and form B from 100 RK4 steps": lambda: model.operator(100)(x0),
            "100 RK4 steps on coordinates": lambda: model.multi_step(x0, 100),
            "5 steps through the chart": lambda: [space.point(f.core(space.coords(x0))) for _ in range(5)],
        }
    )
    found["100 steps through the chart, 20 x those"] = 20 * found.pop("5 steps through the chart")
    rows = [(name, f"{20 * value:.2f}", f"{value / found['one step']:.1f} x") for name, value in found.items()]
    table("1,000 samples in batches of 50", ("sampler", "CPU seconds", "one step"), rows)


def decoding(model: FlowMatching, real: ImageSet, n: int) -> None:
    """The decoder by itself, faster ways to run it, and what samples are worth by them."""
    f, x0 = model.operator(), noise(model, 500, seed=4)
    z = model.chart_at(DATA, model.density).inverse(f.core(f.domain.coords(x0))) if model.density else f.core(f.domain.coords(x0))
    decode = model.chart_at(DATA, model.encoder).inverse
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled = torch.compile(decode)
    compiled(z)  # compiling takes longer than all else

    def narrow(z: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return decode(z)

    ways = {
        "as it is": lambda: decode(z),
        "channels last": lambda: last.chart_at(DATA, last.encoder).inverse(z),
        "networks in bfloat16": lambda: narrow(z),
        "compiled": lambda: compiled(z),
        "density alone": lambda: model.chart_at(DATA, model.density).inverse(f.core(f.domain.coords(x0))),
    }
    found = seconds(ways)
    rows = [(name, f"{2 * value:.2f}", f"{value / found['as it is']:.2f}") for name, value in found.items()]
    table("decoding 1,000 samples in batches of 500", ("way", "CPU seconds", "as it is"), rows)
    with torch.autocast("cpu", torch.bfloat16):
        print(f"samples, networks in bfloat16: {quality(sample(f, noise(model, min(n, len(real)))), real)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder; the pretrained model if absent")
    parser.add_argument("--data", default="mnist", help="data set of the model")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--likelihood", type=int, default=10000, help="held-out images, of either kind")
    parser.add_argument("--out", type=Path, default=Path("runs/figures"), help="folder of the pictures")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    options.out.mkdir(parents=True, exist_ok=True)
    model = ModelFolder(options.run).load(FlowMatching)
    real, train = load(options.data, "test"), load(options.data, "train")
    laws(model, to_unit(real.spread(100).images))
    one_step(model)
    inversion(model, to_unit(real.spread(100).images), real.name)
    worst_inversions(model, to_unit(real.spread(1000).images), real.name)
    spectrum(model, to_unit(real.spread(1000).images))
    samples(model, real, options.samples)
    guidance(model, real, train, options.samples)
    likelihood(model, real, options.likelihood)
    copies(model, train, real, options.out)
    pictures(model, real, train, options.out)
    times(model)
    decoding(model, real, options.samples)


if __name__ == "__main__":
    main()
