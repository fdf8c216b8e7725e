"""The guided tour behind `make demo`: train briefly, then show and prove what the model is."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from applications.common.data import load, to_uint8, to_unit
from applications.common.figures import captioned_rows, grid, save_figure, save_picture
from applications.common.manifest import NAME
from applications.common.metrics import psnr
from applications.common.options import ModelSource
from applications.common.runs import Run
from applications.common.training import TrainingConfig
from applications.flow_matching import evaluate
from applications.flow_matching.config import Config
from applications.flow_matching.model import FlowMatching
from applications.flow_matching.sampling import encode, interpolate, noise
from applications.flow_matching.train import train
from induced import Linearizer
from induced.checks import Report, require
from induced.checks.report import Reports
from induced.errors import CheckpointError
from induced.plot import plot_spectrum
from induced.serialization.disk import write_json

BRIEF = Config(training=TrainingConfig(steps=1000, batch=64, learning_rate=2e-3, warmup=50, log_every=25))
"""Five to ten minutes on two cores."""


def tour(
    out: Path, *, config: Config = BRIEF, overwrite: bool = False, device: str = "auto", say: Callable[[str], None] = print
) -> dict[str, object]:
    """Train on the embedded digits, write figures and report.json to `out`, and print the tables.

    Arguments:
        out: the folder; the run lies in it beside the figures.
        config: what to train, on the embedded digits.
        overwrite: delete the run of an earlier tour; its figures are written anew.
        device: where to compute, as `pick` takes it.
        say: where the text goes.

    Returns:
        The report, as in report.json.

    Raises:
        CheckpointError: the folder holds an earlier tour and `overwrite` is false; or it holds anything else.
        LawViolation: a law does not hold on the trained model.
    """
    run = Run(out / "run")
    if out.exists() and not (run.folder / NAME).exists() and (not out.is_dir() or any(out.iterdir())):
        what = "holds other files than a tour" if out.is_dir() else "is a file"
        raise CheckpointError(f"{out}: {what}: nothing is written over; choose another folder with --out")
    run.check({}, overwrite=overwrite)
    say(f"1. Training an encoder for {config.training.steps} steps on 4,500 embedded MNIST digits (500 are held out),")
    say("   and fitting a density to its coordinates.")
    result = train(config, run, overwrite=overwrite, device=device)
    model = ModelSource(run.folder, device=device).load(FlowMatching)
    say(f"   {result.seconds:.0f} s, {result.rows_per_second:.0f} rows/s, loss {result.losses['loss']:.3f}\n")
    held_out = load("mnist5k", "test")
    images = to_unit(held_out.images[::5]).to(next(model.parameters()))
    with torch.no_grad():
        report: dict[str, object] = {
            "training": {"steps": result.steps, "seconds": result.seconds, "losses": result.losses},
            "axioms": _axioms(model, images[:8], say),
            "one_step": _one_step(model, out, say),
            "inversion": _inversion(model, images, out, say),
            "spectrum": _spectrum(model.operator(), out, say),
            "timing": _timing(model, say),
            "pretrained": _pretrained(out, device, say),
        }
    path = write_json(out / "report.json", report)
    say(f"\nEverything lies in {out}/:")
    for name, what in _FIGURES.items():
        say(f"   {name:<24} {what}")
    say(f"   {path.name:<24} every number above\n   run/{' ' * 21}the training")
    return report


_FIGURES = {
    "one_step.png": "samples of the model trained just now: in one step, and in 100",
    "inversion.png": "held-out digits, their encodings, the encodings decoded, and the leading coordinates alone",
    "interpolation.png": "the induced segment between two held-out digits, five times",
    "spectrum.png": "singular values of the one-step operator",
    "singular_vectors.png": "its first right (noise) and left (digit) singular vectors as images",
    "pretrained_samples.png": "samples of the pretrained model, in one step",
}


def _axioms(model: FlowMatching, images: Tensor, say: Callable[[str], None]) -> dict[str, list[dict[str, object]]]:
    say("2. Is it linear? Every law on the trained networks, at held-out digits and noise; tolerances from the charts' rounding.")
    laws = {dtype: Reports(rows) for dtype, rows in evaluate.axioms(model, images).items()}
    for dtype, rows in laws.items():
        say("\n".join(f"   {line}" for line in [dtype, *str(rows).splitlines()]) + "\n")
    require(row for rows in laws.values() for row in rows if row.verdict != "unjudgeable")
    return {dtype: [_record(row) for row in rows] for dtype, rows in laws.items()}


def _record(row: Report) -> dict[str, object]:
    record = row.to_dict()
    del record["worst"]  # an image
    return {**record, "ok": row.ok}


def _one_step(model: FlowMatching, out: Path, say: Callable[[str], None]) -> dict[str, object]:
    say("3. One step against T steps: the same map. (Euler with T = 1 gives the zero vector both ways, since A_0 = -I.)")
    rows = evaluate.one_step(model)
    say("     dtype    method     T   relative latent error   PSNR of the images   condition of B")
    for row in rows:
        say(
            f"     {row.dtype:<8} {row.method:<6} {row.steps:>5}   {row.latent_error:>21.1e}   {row.image_psnr:>15.1f} dB"
            f"   {row.condition:>14.3g}"
        )
    orders = {method: evaluate.convergence_order(model, method) for method in ("euler", "rk4")}
    say(f"   order of convergence: Euler {orders['euler']:.2f}, RK4 {orders['rk4']:.2f}")
    x0 = noise(model, 32, seed=5)
    once, many = model.operator()(x0), model.multi_step(x0)
    quality = float(psnr(once, many).mean())
    say(f"   the two halves of one_step.png differ by {quality:.1f} dB PSNR\n")
    caption = "upper two rows: one step; lower two: the same noise in 100 steps"
    save_picture(out / "one_step.png", grid(to_uint8(torch.cat([once, many])), columns=16, scale=2, caption=caption))
    return {"rows": [asdict(row) for row in rows], "order": orders, "figure_psnr": quality}


def _inversion(model: FlowMatching, images: Tensor, out: Path, say: Callable[[str], None]) -> dict[str, object]:
    f = model.operator()
    found = evaluate.inversion(f, images)
    say(f"4. Inversion: {found.count} held-out digits x -> f+(x) -> f(f+(x)): PSNR {found.psnr_mean:.1f} dB,")
    say(f"   worst {found.psnr_min:.1f} dB; the encodings have standard deviation {found.encoding_std:.2f}, noise has 1.")
    some = images[::9]
    codes = encode(f, some)
    leading = f.codomain.coords(some)
    leading[:, model.config.rank :] = 0.0
    rows = [
        ("held-out digit", some),
        ("encoding f+(x) / 3", codes / 3),
        ("f(f+(x))", f(codes)),
        (f"its first {model.config.rank}\ncoordinates", f.codomain.point(leading)),
    ]
    captioned_rows(out / "inversion.png", [(label, to_uint8(row)) for label, row in rows])
    pairs = [(0, 95), (12, 43), (25, 77), (31, 58), (64, 6)]
    strips = torch.cat([interpolate(f, images[a], images[b], 12) for a, b in pairs])
    caption = "each row: the induced segment from one held-out digit to another, both ends included"
    save_picture(out / "interpolation.png", grid(to_uint8(strips), columns=12, scale=2, caption=caption))
    say("   interpolation.png walks between encodings of held-out digits\n")
    return asdict(found)


def _spectrum(f: Linearizer, out: Path, say: Callable[[str], None]) -> dict[str, object]:
    svd = f.svd()
    values = svd.values.tolist()
    say("5. Spectrum of the one-step operator: the standard deviations that it gives the latent coordinates.")
    say(f"   largest {', '.join(f'{v:.2f}' for v in values[:8])}; 64th {values[63]:.3f}, last {values[-1]:.3f}\n")
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    plot_spectrum(svd, ax=axes)
    axes.set(xscale="log", title="singular values of the one-step operator")
    save_figure(figure, out / "spectrum.png")
    k = 8
    domain, codomain = f.domain, f.codomain
    left = svd.values[:k, None] * svd.U[:, :k].mT
    plus, minus = codomain.point(2 * left), codomain.point(-2 * left)
    right = domain.point(svd.V[:, :k].mT)
    scale = right.abs().amax((1, 2, 3), keepdim=True)  # each on a scale of its own, with 0 in the middle
    rows = [("right v_i", right / scale), ("f(2 v_i)", plus), ("f(-2 v_i)", minus)]
    captioned_rows(out / "singular_vectors.png", [(label, to_uint8(row)) for label, row in rows])
    return {"values": values}


def _timing(model: FlowMatching, say: Callable[[str], None]) -> dict[str, object]:
    times = evaluate.timing(model)
    say(f"6. Time for a batch of {evaluate.TIMED} (medians, one process):")
    for label, seconds in times.items():
        say(f"     {label:<36} {seconds * 1e3:>9.1f} ms   {seconds / times['one step']:>6.1f} x one step")
    say("")
    return {"batch": evaluate.TIMED, **times}


def _pretrained(out: Path, device: str, say: Callable[[str], None]) -> dict[str, object]:
    model = ModelSource(pretrained="mnist", device=device).load(FlowMatching)
    say("7. pretrained_samples.png is drawn by the pretrained model, trained for longer on full MNIST, and not by the one above.")
    samples, caption = to_uint8(model.operator()(noise(model, 64, seed=6))), "samples of the pretrained model, in one step"
    save_picture(out / "pretrained_samples.png", grid(samples, columns=16, scale=2, caption=caption))
    return {"samples": 64, "steps": 100}
