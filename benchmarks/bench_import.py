"""How much longer `import induced` takes than `import torch`, each in a fresh interpreter; the goal is 1.3."""

import argparse
import os
import resource
import subprocess
import sys
import time
from statistics import median

from common import ROOT, shown, table

GOAL = 1.3


def spent(module: str) -> tuple[float, float]:
    """CPU and wall seconds of an interpreter that imports a module and ends."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=environment, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - start


def main() -> None:
    """Time the imports in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    modules = ("torch", "induced", "applications.cli")
    for module in modules:
        spent(module)  # fills the file cache and writes bytecode
    found = {module: [] for module in modules}
    for _ in range(rounds):
        for module in modules:
            found[module].append(spent(module))

    def column(module: str, kind: int) -> tuple[float, float]:
        ratios = [mine[kind] / torchs[kind] for mine, torchs in zip(found[module], found["torch"], strict=True)]
        return median(entry[kind] for entry in found[module]), median(ratios)

    rows = []
    for module in modules:
        (cpu, cpu_ratio), (wall, wall_ratio) = column(module, 0), column(module, 1)
        rows.append([f"import {module}", shown(cpu), f"{cpu_ratio:.2f} x", shown(wall), f"{wall_ratio:.2f} x"])
    table(f"Imports, medians of {rounds} interleaved rounds", ["", "CPU", "of torch", "wall", "of torch"], rows)
    ratio = column("induced", 0)[1]
    print(f"import induced: {ratio:.2f} x import torch (CPU); goal {GOAL} {'met' if ratio <= GOAL else 'MISSED'}")


if __name__ == "__main__":
    main()
