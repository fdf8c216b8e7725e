"""What the ablations share: their options, and a loop that trains and judges each variant once and goes on where it stopped."""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

Changes = Mapping[str, object]
Variants = Mapping[str, tuple[Changes, Changes]]
"""By name: changes to the settings of the model, and to those of the objective."""


def options(description: str | None, variants: Variants, out: str) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=5.0, help="CPU time of one thread for each variant")
    parser.add_argument("--only", nargs="+", choices=list(variants), default=list(variants))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser.parse_args()


def changed(config: Any, changes: tuple[Changes, Changes]) -> Any:
    """An application's configuration with the changes of a variant."""
    model, objective = changes
    return replace(config, model=replace(config.model, **model), objective=replace(config.objective, **objective))


def ablate(asked: argparse.Namespace, judge: Callable[[str], dict[str, float]]) -> None:
    """Write what `judge(variant)` finds to results.jsonl, for each variant that is not in there."""
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    results = asked.out / "results.jsonl"
    done = {json.loads(line)["variant"] for line in results.read_text().splitlines()} if results.exists() else set[str]()
    for name in asked.only:
        if name in done:
            continue
        torch.manual_seed(asked.seed)
        began = time.process_time()
        record = {"variant": name, **judge(name), "seconds": time.process_time() - began}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        figures = "  ".join(f"{key} {value:.4g}" for key, value in record.items() if isinstance(value, float))
        print(f"{name:<46} {figures}", flush=True)
