"""Every figure of docs/flow_matching.md, for the pretrained model or a run: python benchmarks/measure_digits.py [RUN_FOLDER]."""

import sys
from pathlib import Path

import torch

from applications.common.data import load, to_unit
from applications.flow_matching import evaluate, store
from induced.errors import DataError


def main() -> None:
    torch.set_grad_enabled(False)
    model = store.load_run(Path(sys.argv[1])) if len(sys.argv) > 1 else store.load_pretrained()
    held_out = to_unit(load("mnist5k", "test").images[::5])

    print("laws at 8 held-out digits: worst residual over tolerance, and the report closest to its tolerance")
    for dtype, reports in evaluate.axioms(model, held_out[:8]).items():
        judged = [report for report in reports if report.tolerance > 0]
        closest = max(judged, key=lambda report: report.residual / report.tolerance)
        loosest = max(judged, key=lambda report: report.tolerance)
        print(f"  {dtype}: {sum(report.ok for report in reports)} of {len(reports)} hold")
        print(f"    closest  {closest}\n    loosest  {loosest}")

    print("one step against T steps, 64 noise images")
    for row in evaluate.one_step(model, counts=(1, 10, 100, 1000)):
        print(
            f"  {row.dtype} {row.method:<5} T={row.steps:<5} latent {row.latent_error:8.1e}  images {row.image_psnr:6.1f} dB  "
            f"condition {row.condition:.3g}"
        )
    for method in ("euler", "rk4"):
        print(f"order of convergence, {method}: {evaluate.convergence_order(model, method):.3f}")

    sets = {"mnist5k, held out": held_out}
    try:
        sets["mnist, test set"] = to_unit(load("mnist", "test").images[:100])
    except DataError as error:
        print(f"(the mnist test set is left out: {error})")
    for name, images in sets.items():
        for dtype in (torch.float32, torch.float64):
            m = evaluate.in_dtype(model, dtype)
            found = evaluate.inversion(m.operator(), images.to(dtype))
            print(
                f"inversion of {found.images} digits ({name}), {dtype}: PSNR mean {found.psnr_mean:.1f} dB, "
                f"worst {found.psnr_min:.1f} dB, std of encodings {found.encoding_std:.2f}"
            )
    values = model.operator().svd().values
    print(f"singular values of B: {', '.join(f'{v:.2f}' for v in values[:20].tolist())} ... {values[-1].item():.3f}")
    print(f"timing: {evaluate.timing(model)}")


if __name__ == "__main__":
    main()
