"""Mutation testing: a seeded sample of one-place changes of the library, and whether the tests that stand for a module see them.

    make mutation            # 200 mutants; or python tools/mutate.py --mutants 10 --seed 1

    make mutation ONLY="induced/operators/blocks.py induced/operators/rules.py"

cosmic-ray makes the mutants; each is tested in a temporary copy, so that the working tree is never touched. Its own runner has
one test command for all modules, which would take hours here: this one has the tests of each module, those that kill soonest
first, and runs them in a fork of a process that has imported torch. Annotations are left alone: a mutant there fails at import or
means nothing. A mutant that takes three times as long as the tests is killed.
"""

import argparse
import ast
import multiprocessing
import os
import queue
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
MUTATED = ("induced/checks", "induced/linearizer.py", "induced/operators", "induced/propagators")
COPIED = ("induced", "proofs_tests", "applications", "docs", "pyproject.toml", "README.md")

ERRORS = "units/test_errors.py"
# the laws over every chart and those through the compiler would take a minute a mutant
QUICK = "-knot (hold_over_every or compiles or exports)"
REJECT = "counterexamples"
RECORDED = "counterexamples/test_recorded_reports.py"
MEASURES = ("counterexamples/test_measures.py", "counterexamples/test_map_measures.py")
ENDOMORPHISMS = (
    f"{RECORDED}::test_reports_of_endomorphisms",
    *MEASURES,
    "counterexamples/test_endomorphism_checks_reject.py",
    "counterexamples/test_tolerances.py",
)
REDUCED = "laws/test_reductions.py"
FUNCTIONS = tuple(f"laws/test_{name}.py" for name in ("functions", "function_edges", "function_gradients"))
STRUCTURES = "laws/test_structures.py"
FINAL = "structure/test_structure.py::test_a_public_class_is_abstract_or_final"
CHARTS = ("counterexamples/test_chart_checks_reject.py", "counterexamples/test_right_charts.py")
MAPS = (
    f"{RECORDED}::test_reports_of_maps",
    *MEASURES,
    "counterexamples/test_map_checks_reject.py",
    "counterexamples/test_right_maps.py",
    "counterexamples/test_tolerances.py",
    ERRORS,
)
SPACES = "counterexamples/test_checks_reject.py"
VOLUMES = "counterexamples/test_volume_checks_reject.py"
TESTS = {
    "induced/checks": (RECORDED, REJECT, ERRORS, "laws/test_spaces.py"),
    "induced/checks/batches.py": (
        f"{RECORDED}::test_reports_of_charts",
        *MEASURES,
        *CHARTS,
        ERRORS,
        "counterexamples/test_map_checks_reject.py",
    ),
    "induced/checks/charts.py": (f"{RECORDED}::test_reports_of_charts", *CHARTS, ERRORS),
    "induced/checks/endomorphisms.py": ENDOMORPHISMS,
    "induced/checks/items.py": ("applications/test_pytest_plugin.py",),
    "induced/checks/loading.py": (ERRORS, "applications/test_pytest_plugin.py"),
    "induced/checks/maps.py": MAPS,
    "induced/checks/measure.py": (*MEASURES, RECORDED, *CHARTS, ERRORS, *MAPS),
    "induced/checks/penrose.py": MAPS,
    "induced/checks/report.py": ("counterexamples/test_reports.py", *MEASURES, ERRORS),
    "induced/checks/run.py": (f"{RECORDED}::test_reports_of_all_laws", "counterexamples/test_check_rejects.py", ERRORS),
    "induced/checks/sides.py": (*MEASURES, f"{RECORDED}::test_reports_of_charts", *CHARTS, VOLUMES),
    "induced/checks/singular.py": MAPS,
    "induced/checks/spaces.py": (
        f"{RECORDED}::test_reports_of_spaces",
        *CHARTS,
        SPACES,
        "counterexamples/test_check_rejects.py",
        ERRORS,
    ),
    "induced/checks/untouched.py": ("counterexamples/test_side_effects.py",),
    "induced/checks/volume.py": (f"{RECORDED}::test_reports_of_charts", VOLUMES),
    "induced/checks/orbits.py": ENDOMORPHISMS,
    "induced/linearizer.py": (ERRORS, "laws/test_linearizer.py", "laws/test_analysis.py", QUICK),
    "induced/operators": (ERRORS, REDUCED, "laws/test_operators.py", "laws/test_inverses.py", "laws/test_solutions.py"),
    "induced/operators/algebra.py": (ERRORS, "laws/test_operators.py", "laws/test_functions.py", REDUCED),
    "induced/operators/bases.py": (ERRORS, "laws/test_solutions.py", "laws/test_spans.py"),
    "induced/operators/blocks.py": ("laws/test_direct_sums.py", REDUCED, ERRORS, FINAL, "laws/test_cutoffs.py"),
    "induced/operators/checked.py": (ERRORS, "laws/test_not_finite.py"),
    "induced/operators/circulant.py": (ERRORS, "laws/test_convolutions.py", REDUCED),
    "induced/operators/columns.py": (ERRORS, "laws/test_operators.py", "laws/test_inverses.py", REDUCED, "laws/test_scales.py"),
    "induced/operators/convolution.py": (ERRORS, "laws/test_convolutions.py"),
    "induced/operators/derivatives.py": (ERRORS, "laws/test_derivatives.py", "laws/test_operator_gradients.py"),
    "induced/operators/diagonal.py": (STRUCTURES, "laws/test_direct_sums.py", REDUCED, ERRORS, FINAL, "laws/test_operators.py"),
    "induced/operators/exponential.py": (ERRORS, "laws/test_exp_multiply.py"),
    "induced/operators/factors.py": (ERRORS, "laws/test_derivatives.py", "laws/test_spectral.py", "laws/test_cutoffs.py"),
    "induced/operators/functions.py": (ERRORS, *FUNCTIONS),
    "induced/operators/interop.py": (ERRORS, "laws/test_interop.py"),
    "induced/operators/invariants.py": (ERRORS, "laws/test_invariants.py", REDUCED),
    "induced/operators/krylov.py": (ERRORS, "laws/test_krylov.py"),
    "induced/operators/lowrank.py": (
        ERRORS,
        "laws/test_operators.py",
        "laws/test_inverses.py",
        REDUCED,
        "laws/test_derivatives.py",
        "laws/test_scales.py",
    ),
    "induced/operators/matrices.py": (ERRORS, "laws/test_matrices.py", *FUNCTIONS),
    "induced/operators/orthogonal.py": (STRUCTURES, REDUCED, ERRORS, FINAL, "laws/test_invariants.py"),
    "induced/operators/reduction.py": (
        REDUCED,
        ERRORS,
        FINAL,
        "laws/test_spectral.py",
        "laws/test_cutoffs.py",
        "laws/test_scales.py",
        "laws/test_compiled.py",
    ),
    "induced/operators/rules.py": (
        REDUCED,
        "laws/test_batches.py",
        ERRORS,
        FINAL,
        "laws/test_invariants.py",
        "laws/test_operators.py",
    ),
    "induced/operators/schur.py": (ERRORS, "laws/test_matrices.py", *FUNCTIONS),
    "induced/operators/spectral.py": (ERRORS, "laws/test_spectral.py"),
    "induced/operators/triangular.py": (ERRORS, "laws/test_structures.py"),
    "induced/propagators": (ERRORS, *(f"laws/test_{name}.py" for name in ("propagators", "one_basis", "magnus", "steps"))),
}


class Mutant(NamedTuple):
    """The n-th place in a module where an operator of cosmic-ray applies."""

    module: str
    operator: str
    occurrence: int
    line: int


def sources(names: Sequence[str]) -> list[Path]:
    return sorted(path for name in names for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).glob("*.py")))


def annotated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The spans of annotations."""
    nodes = [getattr(node, name, None) for node in ast.walk(ast.parse(source)) for name in ("annotation", "returns")]
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in nodes if n is not None]


def mutants(names: Sequence[str]) -> Iterator[Mutant]:
    """All mutants of some modules or folders."""
    operators = [(name, get_operator(name)) for name in sorted(operator_names()) if not name.endswith("/NoOp")]
    for path in sources(names):
        source = path.read_text(encoding="utf-8")
        tree, spans = get_ast(source), annotated(source)
        for name, operator in operators:
            if operator.arguments():
                continue
            places = (place for node in ast_nodes(tree) for place in operator().mutation_positions(node))
            for occurrence, (start, _) in enumerate(places):
                if not any(begin <= start < end for begin, end in spans):
                    yield Mutant(str(path.relative_to(ROOT)), name, occurrence, start[0])


def tests_of(module: str) -> tuple[str, ...]:
    tests = TESTS.get(module) or TESTS[str(Path(module).parent)]
    return tuple(test if test.startswith("-") else f"proofs_tests/{test}" for test in tests)


def parts_of(tests: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Its files one by one, each with the options of all."""
    options = [test for test in tests if test.startswith("-")]
    return [(test, *options) for test in tests if not test.startswith("-")]


def copy(parent: Path) -> Path:
    """A working copy of the library and its tests."""
    place = Path(tempfile.mkdtemp(dir=parent))
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place / name)
    return place


FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ("__main__", "pytest", "hypothesis", "scipy.linalg", "scipy.optimize", "torch")
ENVIRONMENT = {"HYPOTHESIS_PROFILE": "dev", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(place: Path, tests: tuple[str, ...]) -> None:
    """Exit with pytest's status for the first file that fails; the files after it are not even collected."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.chdir(place)
    sys.path.insert(0, str(place))  # the copy, before the installed library
    options = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--assert=plain")
    sys.exit(any(pytest.main([*options, *part]) for part in parts_of(tests)))


def passes(place: Path, tests: tuple[str, ...], timeout: float | None) -> bool:
    """Whether the tests pass in a copy; without bytecode, which is stale where a file changes twice in a second."""
    process = FORKS.Process(target=run_tests, args=(place, tests))
    process.start()
    process.join(timeout)
    process.kill()
    process.join()
    return process.exitcode == 0


def mutated(place: Path, mutant: Mutant) -> tuple[str, str]:
    """The source of a module in a copy, before and after."""
    source = (place / mutant.module).read_text(encoding="utf-8")
    return source, mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)


def shown(mutant: Mutant, texts: tuple[str, str]) -> str:
    """The line that a mutant changes, before and after."""
    before, after = (text.splitlines() for text in texts)
    where = next((k for k, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), mutant.line - 1)
    place = f"{mutant.operator.removeprefix('core/')} {mutant.module}:{where + 1}"
    return f"{place}\n    - {before[where].strip()}\n    + {after[where].strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=MUTATED, metavar="FILE", help="modules or folders of modules; else all")
    parser.add_argument("--minutes", type=float, default=30.0, help="no mutant is begun this long after the first")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    FORKS.set_forkserver_preload(list(PRELOADED))
    population = list(mutants(options.only))
    sample = random.Random(options.seed).sample(population, min(options.mutants, len(population)))
    print(f"{len(sample)} of {len(population)} mutants, seed {options.seed}", flush=True)
    total: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as parent, ThreadPoolExecutor(options.workers) as pool:
        copies: queue.Queue[Path] = queue.Queue()
        for _ in range(options.workers):
            copies.put(copy(Path(parent)))

        def unchanged(tests: tuple[str, ...]) -> float:
            place, begin = copies.get(), time.monotonic()
            try:
                if not passes(place, tests, None):
                    raise SystemExit(f"these fail without a mutant: {' '.join(tests)}")
            finally:
                copies.put(place)
            return time.monotonic() - begin

        each = sorted({part for mutant in sample for part in parts_of(tests_of(mutant.module))})
        seconds = dict(zip(each, pool.map(unchanged, each), strict=True))
        for part, taken in seconds.items():
            print(f"{taken:6.1f} s unchanged: {' '.join(part)}", flush=True)
        start = time.monotonic()

        def survivor(mutant: Mutant) -> str | None:
            """What it changes, '' where it is killed, None where time is up."""
            if time.monotonic() - start > 60 * options.minutes:
                return None
            place, tests = copies.get(), tests_of(mutant.module)
            original, changed = mutated(place, mutant)
            try:
                (place / mutant.module).write_text(changed, encoding="utf-8")
                limit = 3 * sum(seconds[part] for part in parts_of(tests)) + 20
                return shown(mutant, (original, changed)) if passes(place, tests, limit) else ""
            finally:
                (place / mutant.module).write_text(original, encoding="utf-8")
                copies.put(place)

        for mutant, text in zip(sample, pool.map(survivor, sample), strict=True):
            if text:
                print(f"SURVIVED {text}", flush=True)
            if text is not None:
                total[mutant.module] += 1
                killed[mutant.module] += not text
    for module in sorted(total):
        print(f"{killed[module]:4} of {total[module]:4}  {module}")
    judged = total.total()
    share = killed.total() / max(1, judged)
    print(f"killed {killed.total()} of {judged} = {share:.0%}; {len(sample) - judged} not judged; seed {options.seed}")


if __name__ == "__main__":
    main()
