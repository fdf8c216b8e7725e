"""What the checks cost: CPU milliseconds and passes through the charts, of each check and of a whole run of `check`.

    python -m experiments.measure_checks [--dim 64] [--samples 20]

Charts are `real_nvp(dim)`, the map has a random matrix between two of them. A pass is a call of g or g^-1 of either chart by the
laws, whatever the number of points; estimates of rounding go through the layers by themselves and are not counted.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.bench_calls import Calls
from benchmarks.common import QUICK, seconds, table
from induced import InducedSpace, Linearizer
from induced.bijections import real_nvp
from induced.checks import check, check_adjoint, check_bijection, check_linear, check_penrose, check_space, check_svd
from induced.checks.report import Reports

TRIPLETS = 16
Checks = dict[str, Callable[[], Reports]]


def checks(dim: int, samples: int, dtype: torch.dtype) -> tuple[Checks, tuple[InducedSpace, InducedSpace]]:
    """Each check of charts and maps, and of all together, by name; and the two spaces."""
    torch.manual_seed(0)
    X, Y = (InducedSpace(real_nvp(dim).to(dtype)) for _ in range(2))
    f = Linearizer(torch.randn(dim, dim, dtype=dtype) / dim**0.5, X, Y)
    x, y = (torch.randn(samples, dim, dtype=dtype) for _ in range(2))
    return {
        "check_bijection": lambda: check_bijection(X.chart, x),
        "check_space": lambda: check_space(X, x),
        "check of the chart": lambda: check(X.chart, x),
        "check_linear": lambda: check_linear(f, x),
        "check_adjoint": lambda: check_adjoint(f, x, y),
        "check_penrose": lambda: check_penrose(f, x, y),
        "check_svd": lambda: check_svd(f, min(dim, TRIPLETS)),
        "check of the map": lambda: check(f, x),
    }, (X, Y)


def main(dim: int, samples: int, rounds: int) -> None:
    for dtype in (torch.float32, torch.float64):
        forms, spaces = checks(dim, samples, dtype)
        times, rows = seconds(forms, rounds=rounds), []
        for name, form in forms.items():
            calls = [Calls(X.chart) for X in spaces]
            laws = form().counts()
            for each in calls:
                each.stop()
            passes = [str(sum(counts)) for counts in zip(*((each.entered, each.left) for each in calls), strict=True)]
            rows.append([name, f"{1e3 * times[name]:.1f}", *passes, str(laws["holds"]), str(sum(laws.values()))])
        title = f"real_nvp({dim}), {samples} samples, {str(dtype).removeprefix('torch.')}"
        table(title, ["check", "ms", "g", "g^-1", "laws that hold", "laws"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=8 if QUICK else 64)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 7, help="timings of each check, of which the median counts")
    options = parser.parse_args()
    main(options.dim, options.samples, options.rounds)
