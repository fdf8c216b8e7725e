"""Mutation testing: a seeded sample of one-place changes of the library, and whether the tests that stand for a module see them.

    make mutation            # 200 mutants; or python tools/mutate.py --mutants 10 --seed 1

cosmic-ray makes the mutants; each is tested in a temporary copy, so that the working tree is never touched. Its own runner has
one test command for all modules, which would take hours here: this one has the tests of each module, the quickest first.
Annotations are left alone: a mutant there fails at import or means nothing. A mutant that takes three times as long as the tests
is killed.
"""

import argparse
import ast
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

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
REDUCED = "laws/test_reductions.py"
TESTS = {
    "induced/checks": (REJECT, ERRORS, "laws/test_spaces.py"),
    "induced/linearizer.py": (ERRORS, "laws/test_linearizer.py", "laws/test_analysis.py", QUICK),
    "induced/operators": (ERRORS, REDUCED, "laws/test_operators.py", "laws/test_solutions.py"),
    "induced/operators/algebra.py": (ERRORS, "laws/test_operators.py", "laws/test_functions.py", REDUCED),
    "induced/operators/bases.py": (ERRORS, "laws/test_solutions.py", "laws/test_subspaces.py"),
    "induced/operators/checked.py": (ERRORS, "laws/test_not_finite.py"),
    "induced/operators/circulant.py": (ERRORS, "laws/test_structures.py", REDUCED),
    "induced/operators/columns.py": (ERRORS, "laws/test_operators.py", REDUCED, "laws/test_scales.py"),
    "induced/operators/convolution.py": (ERRORS, "laws/test_structures.py"),
    "induced/operators/derivatives.py": (ERRORS, "laws/test_derivatives.py", "laws/test_operators.py"),
    "induced/operators/exponential.py": (ERRORS, "laws/test_krylov.py"),
    "induced/operators/factors.py": (ERRORS, "laws/test_derivatives.py", "laws/test_spectral.py", "laws/test_cutoffs.py"),
    "induced/operators/functions.py": (ERRORS, "laws/test_functions.py"),
    "induced/operators/interop.py": (ERRORS, "laws/test_interop.py"),
    "induced/operators/invariants.py": (ERRORS, "laws/test_invariants.py", REDUCED),
    "induced/operators/krylov.py": (ERRORS, "laws/test_krylov.py"),
    "induced/operators/lowrank.py": (
        ERRORS,
        "laws/test_operators.py",
        REDUCED,
        "laws/test_derivatives.py",
        "laws/test_scales.py",
    ),
    "induced/operators/matrices.py": (ERRORS, "laws/test_matrices.py", "laws/test_functions.py"),
    "induced/operators/reduction.py": (ERRORS, REDUCED, "laws/test_scales.py", "laws/test_cutoffs.py", "laws/test_spectral.py"),
    "induced/operators/schur.py": (ERRORS, "laws/test_matrices.py", "laws/test_functions.py"),
    "induced/operators/spectral.py": (ERRORS, "laws/test_spectral.py"),
    "induced/operators/triangular.py": (ERRORS, "laws/test_structures.py"),
    "induced/propagators": (ERRORS, "laws/test_propagators.py"),
}


class Mutant(NamedTuple):
    """The n-th place in a module where an operator of cosmic-ray applies."""

    module: str
    operator: str
    occurrence: int
    line: int


def sources() -> list[Path]:
    return sorted(path for name in MUTATED for path in ([ROOT / name] if name.endswith(".py") else (ROOT / name).glob("*.py")))


def annotated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The spans of annotations."""
    nodes = [getattr(node, name, None) for node in ast.walk(ast.parse(source)) for name in ("annotation", "returns")]
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in nodes if n is not None]


def mutants() -> Iterator[Mutant]:
    """All mutants of all modules."""
    operators = [(name, get_operator(name)) for name in sorted(operator_names()) if not name.endswith("/NoOp")]
    for path in sources():
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


def copy(parent: Path) -> Path:
    """A working copy of the library and its tests."""
    place = Path(tempfile.mkdtemp(dir=parent))
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place / name)
    return place


def passes(place: Path, tests: tuple[str, ...], timeout: float | None) -> bool:
    """Whether the tests pass in a copy; without bytecode, which is stale where a file changes twice in a second."""
    env = {**os.environ, "HYPOTHESIS_PROFILE": "dev", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = str(place)  # the copy, before the installed library
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    try:
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def mutated(mutant: Mutant) -> tuple[str, str]:
    source = (ROOT / mutant.module).read_text(encoding="utf-8")
    return source, mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)


def shown(mutant: Mutant) -> str:
    """The line that a mutant changes, before and after."""
    before, after = (text.splitlines() for text in mutated(mutant))
    where = next((k for k, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), mutant.line - 1)
    return f"{mutant.module}:{where + 1}\n    - {before[where].strip()}\n    + {after[where].strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30.0, help="no mutant is begun after this many minutes")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    start, population = time.monotonic(), list(mutants())
    sample = random.Random(options.seed).sample(population, min(options.mutants, len(population)))
    print(f"{len(sample)} of {len(population)} mutants, seed {options.seed}", flush=True)
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

        suites = sorted({tests_of(mutant.module) for mutant in sample})
        seconds = dict(zip(suites, pool.map(unchanged, suites), strict=True))
        for suite, taken in seconds.items():
            print(f"{taken:6.1f} s unchanged: {' '.join(suite)}", flush=True)

        def survives(mutant: Mutant) -> bool | None:
            if time.monotonic() - start > 60 * options.minutes:
                return None
            place, tests = copies.get(), tests_of(mutant.module)
            original, changed = mutated(mutant)
            try:
                (place / mutant.module).write_text(changed, encoding="utf-8")
                return passes(place, tests, 3 * seconds[tests] + 20)
            finally:
                (place / mutant.module).write_text(original, encoding="utf-8")
                copies.put(place)

        verdicts = list(zip(sample, pool.map(survives, sample), strict=True))
    judged = [(mutant, verdict) for mutant, verdict in verdicts if verdict is not None]
    total, killed = Counter(m.module for m, _ in judged), Counter(m.module for m, survived in judged if not survived)
    for mutant, survived in judged:
        if survived:
            print(f"SURVIVED {mutant.operator.removeprefix('core/')} {shown(mutant)}")
    for module in sorted(total):
        print(f"{killed[module]:4} of {total[module]:4}  {module}")
    share = killed.total() / max(1, len(judged))
    print(f"killed {killed.total()} of {len(judged)} = {share:.0%}; {len(sample) - len(judged)} not judged; seed {options.seed}")


if __name__ == "__main__":
    main()
