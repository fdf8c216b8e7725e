"""What only a GPU can tell: bits of the lattice, laws with and without TF32, speed and memory of training.

    make gpu                                    # device tests, then this; about 8 minutes on one GPU
    python -m experiments.measure_gpu --device cpu --brief       # a rehearsal

Every section stands alone, has its figures written to OUT/gpu.json as soon as it ends, and does not begin after --seconds: a
machine that is taken away early leaves what was measured. Digits are embedded, faces are noise of their size: nothing is read
from the network, and no figure here says how good a picture is.
"""

import argparse
import copy
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from applications.common.batches import batches
from applications.common.data import ImageSet, Source, load, to_unit
from applications.common.runs import Run
from applications.common.training import Objective, TrainingConfig, fit
from applications.flow_matching import load_pretrained
from applications.flow_matching.config import Config as FlowConfig
from applications.flow_matching.config import ModelConfig as FlowModel
from applications.flow_matching.model import build as build_flow
from applications.flow_matching.objective import FlowMatchingObjective
from applications.idempotent.config import Config as IdempotentConfig
from applications.idempotent.config import ModelConfig as IdempotentModel
from applications.idempotent.evaluate import bits, same_bits
from applications.idempotent.inputs import KINDS, inputs
from applications.idempotent.model import build as build_idempotent
from applications.idempotent.sampling import project
from applications.idempotent.train import start
from applications.style_transfer.config import Config as StyleConfig
from applications.style_transfer.model import build as build_style
from applications.style_transfer.pairs import Crops
from applications.style_transfer.train import objective_for
from experiments.measure_scaling import BANDWIDTH, LAUNCH, TRAFFIC, Traffic
from induced import InducedSpace, check
from induced.checks import check_bijection

Found = dict[str, Any]
Trained = tuple[Callable[[], Objective], Source, TrainingConfig]

MEASURED = ("flow, digits", "flow, 64 x 64", "idempotent, digits", "style")
FLAGS = {
    "as torch has it": {},
    "no TF32": {"conv": False, "matmul": False},
    "TF32 everywhere": {"conv": True, "matmul": True},
    "cudnn.benchmark": {"benchmark": True},
}
"""Settings of cuDNN and cuBLAS."""


@contextmanager
def flags(conv: bool | None = None, matmul: bool | None = None, benchmark: bool | None = None) -> Iterator[None]:
    """Torch's switches for TF32 and for the choice of algorithms by trial; None leaves one as it is."""
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark
    given = (conv, matmul, benchmark)
    cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark = (a if b is None else b for a, b in zip(before, given, strict=True))
    try:
        yield
    finally:
        cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark = before


def seconds(action: Callable[[], object], least: float = 0.3) -> float:
    """Median seconds of an action, the device waited for."""
    action()
    return float(Timer("action()", globals={"action": action}).blocked_autorange(min_run_time=least).median)


class Measure:
    """The sections, on one device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.out, self.brief = torch.device(options.device), Path(options.out), bool(options.brief)
        self.cuda = self.device.type == "cuda"
        self.limit, self.only, self.found = options.seconds, options.only, dict[str, Found]()
        self.out.mkdir(parents=True, exist_ok=True)

    def run(self) -> int:
        """Go through the sections; the exit status, 1 where one failed."""
        began = time.perf_counter()
        for name, section in (
            *(() if self.cuda else (("estimate", self.estimate),)),
            ("machine", self.machine),
            ("bits", self.lattice),
            ("laws", self.laws),
            ("training", self.training),
            ("resume", self.resume),
            ("busy", self.busy),
        ):
            if self.only and name not in self.only:
                continue
            if (spent := time.perf_counter() - began) > self.limit:
                self.found[name] = {"left out": f"{spent:.0f} s were spent"}
            else:
                print(f"== {name}", flush=True)
                try:
                    found = section()
                except Exception as error:  # the next section may still tell something
                    found = {"error": f"{type(error).__name__}: {error}"[:500], "where": traceback.format_exc()[-1500:]}
                self.found[name] = found | {"seconds": round(time.perf_counter() - began - spent, 1)}
                print(json.dumps(self.found[name], indent=1), flush=True)
            (self.out / "gpu.json").write_text(json.dumps(self.found, indent=1) + "\n")
        return int(any("error" in found for found in self.found.values()))

    def machine(self) -> Found:
        """What the machine is, and how fast at what every step is made of."""
        found: Found = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if self.cuda:
            card = torch.cuda.get_device_properties(self.device)
            found |= {"gpu": card.name, "GB": round(card.total_memory / 1e9), "cuda": torch.version.cuda}
            found |= {"cudnn": torch.backends.cudnn.version(), "TF32 of convolutions": torch.backends.cudnn.allow_tf32}
        n = 512 if self.brief else 8192
        for name, dtype, tf32 in (
            ("bf16", torch.bfloat16, False),
            ("TF32", torch.float32, True),
            ("float32", torch.float32, False),
            ("float64", torch.float64, False),
        ):
            a = torch.randn(n, n, device=self.device, dtype=dtype)
            with flags(matmul=tf32):
                found[f"TFLOP/s of a product, {name}"] = round(2e-12 * n**3 / seconds(partial(torch.mm, a, a)), 1)
        x = torch.empty(1 << (22 if self.brief else 30), device=self.device)
        y, small, host = torch.empty_like(x), torch.zeros(64, device=self.device), torch.empty(25_000_000)
        found["TB/s of a copy, read and written"] = round(8e-12 * x.numel() / seconds(lambda: y.copy_(x)), 2)
        found["us a small kernel"] = round(1e3 * seconds(lambda: [small.add_(1.0) for _ in range(1000)]), 2)
        found["GB/s from the host, pageable"] = round(0.1 / seconds(lambda: host.to(self.device, copy=True)), 1)
        if self.cuda:
            pinned = host.pin_memory()
            found["GB/s from the host, pinned"] = round(0.1 / seconds(lambda: pinned.to(self.device, non_blocking=True)), 1)
        return found

    def lattice(self) -> Found:
        """f(f(x)) = f(x) and f(x) alone and in a batch, to the last bit, and the CPU's, under four settings of cuDNN."""
        held = to_unit(load("mnist5k", "test").images)
        torch.manual_seed(0)
        model = build_idempotent(IdempotentModel(blocks=2, widths=(8, 8)) if self.brief else IdempotentModel())
        with torch.no_grad():  # away from its start, as training would take it
            for name, weight in model.named_parameters():
                if "conditioner" in name:
                    weight.mul_(1.6 if weight.dim() > 1 else 1.0).add_(0.02 * torch.randn_like(weight))
        model.align(held[:200])
        each = held[:4] if self.brief else held[:64]
        x, f = torch.cat([inputs(kind, each, 3) for kind in KINDS if kind != "photographs"]), model.operator(exact=True)
        on_cpu, moved = project(f, x), copy.deepcopy(f).to(self.device)
        found: Found = {"inputs": len(x)}
        for name, setting in FLAGS.items():
            with flags(**setting):
                result = bits(moved, x.to(self.device), sizes=(1, 7), compared=64)
                y = project(moved, x.to(self.device)).cpu()
            found[name] = {
                "f(f(x)) is f(x)": result.idempotent,
                "alone and by sevens, of 64": result.equal,
                "the CPU's bits": int(same_bits(y, on_cpu).sum()),
                "largest difference to the CPU": float((y - on_cpu).abs().max()),
            }
        batch = x[:1].expand(256, *x.shape[1:]).to(self.device).contiguous()
        found["images a second"] = round(256 / seconds(lambda: project(moved, batch)))
        return found

    def laws(self) -> Found:
        """The laws of the shipped model: of its bare chart, which obeys the flags, and through its spaces, which do not."""
        f = load_pretrained().to(self.device)
        x = to_unit(load("mnist5k", "test").images[:: 50 if self.brief else 10]).to(self.device)
        chart, found = cast(InducedSpace, f.codomain).chart, Found()
        for name, setting in (("TF32 as torch has it", {}), ("no TF32", {"conv": False, "matmul": False})):
            with flags(**setting), torch.no_grad():
                reports = [*check(f), *check_bijection(chart, x[:8])]
                found[name] = {
                    "laws": f"{sum(report.ok for report in reports)} of {len(reports)} hold",
                    "f(f^-1(x)) - x, worst pixel": float((f(f.pinv()(x)) - x).abs().max()),
                    "bare chart, worst pixel": float((chart.inverse(chart(x)) - x).abs().max()),
                }
        noise = torch.randn(8 if self.brief else 512, *f.domain.shape).to(self.device)
        with torch.no_grad():
            found["images a second, one step"] = round(len(noise) / seconds(lambda: f(noise)))
        return found

    def trainings(self) -> dict[str, Trained]:
        """Each training, by name: its objective, its data and its settings."""
        digits, brief = load("mnist5k", "train"), self.brief
        faces = ImageSet("noise, 64 x 64", torch.randint(0, 256, (256, 3, 64, 64), dtype=torch.uint8), torch.zeros(256).long())
        side = 64 if brief else 256
        crops = torch.randint(0, 256, (16 if brief else 64, 6, 3, side, side), dtype=torch.uint8)
        wide = FlowModel(shape=(3, 64, 64), blocks=8, widths=(32, 48, 96, 192))
        style, flow, idempotent = StyleConfig(), FlowConfig(), IdempotentConfig()
        if brief:
            wide = replace(wide, blocks=4, widths=(8, 8, 8, 8))
            style = replace(style, objective=replace(style.objective, patch=48, margin=8))

        def of_flow(model: FlowModel) -> Callable[[], Objective]:
            return lambda: FlowMatchingObjective(build_flow(model), flow.objective)

        def of_style() -> Objective:
            return objective_for(style, build_style(style.model))

        still = replace(digits, noise=False)
        found: dict[str, Trained] = {
            "flow, digits": (of_flow(flow.model), digits, flow.training),
            "flow, digits, batch 1024": (of_flow(flow.model), digits, replace(flow.training, batch=1024)),
            "flow, digits, bf16": (of_flow(flow.model), digits, replace(flow.training, precision="bf16")),
            "flow, 64 x 64": (of_flow(wide), faces, flow.training),
            "flow, 64 x 64, bf16": (of_flow(wide), faces, replace(flow.training, precision="bf16")),
            "idempotent, digits": (lambda: start(idempotent, digits), still, idempotent.training),
            "idempotent, digits, batch 512": (lambda: start(idempotent, digits), still, replace(idempotent.training, batch=512)),
            "style": (of_style, Crops("noise, every style", crops, style.objective.patch), style.training),
        }
        if self.cuda:  # last, since it begins with minutes of compilation
            found["flow, digits, compiled, bf16"] = (
                of_flow(flow.model),
                digits,
                replace(flow.training, compile=True, precision="bf16"),
            )
        return found

    def estimate(self) -> Found:
        """What a step would take by launches alone and by memory alone: counts, with the assumptions of `measure_scaling`.

        The operations of losses, gradients, clipping and Adam, none of them fused; bytes of a step of `batch` images are
        extrapolated from 8 and 16.
        """
        found = Found()
        for name in MEASURED:
            make, data, config = self.trainings()[name]
            (_, low), (operations, high) = (self.counted(make, data, rows) for rows in (8, 16))
            traffic = low + (config.batch - 8) * (high - low) / 8
            bounds = {"launches": 1e3 * operations * LAUNCH, "memory": 1e3 * traffic / (TRAFFIC * BANDWIDTH)}
            found[name] = {
                "operations": operations,
                "GB read and written": round(traffic / 1e9, 1),
                **{f"ms by {bound}": round(time, 1) for bound, time in bounds.items()},
                "rows a second, at most": round(1e3 * config.batch / max(bounds.values())),
            }
        return found

    def counted(self, make: Callable[[], Objective], data: Source, rows: int) -> tuple[int, int]:
        """Operations and bytes of a step."""
        step = self.step(make, data, rows)
        step()
        with Traffic() as traffic:
            step()
        return traffic.operations, traffic.bytes

    def training(self) -> Found:
        """Rows a second after the start, memory and losses of each training."""
        found = Found()
        steps = 4 if self.brief else 120
        for name, (objective, data, config) in self.trainings().items():
            batch = 8 if self.brief else config.batch
            short = replace(config, steps=steps, batch=batch, log_every=steps // 4, sample_every=0, checkpoint_every=steps)
            try:
                found[name] = self.trained(objective, data, short)
            except Exception as error:  # out of memory, on a smaller card: the others may fit
                found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        return found

    def trained(self, objective: Callable[[], Objective], data: Source, config: TrainingConfig) -> Found:
        """One training, in a folder that goes again."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        torch.manual_seed(0)
        with TemporaryDirectory() as folder:
            run = Run(folder)
            fit(objective(), data, config, run, overwrite=True, device=self.name)
            first, *_, last = run.metrics()
        spent = last["seconds"] - first["seconds"]
        return {
            "rows a second": round((last["step"] - first["step"]) * config.batch / spent, 1),
            "ms a step": round(1e3 * spent / (last["step"] - first["step"]), 2),
            "loss, first and last": [round(first["loss"], 4), round(last["loss"], 4)],
            "GB at most": round(torch.cuda.max_memory_allocated() / 1e9, 2) if self.cuda else None,
        }

    def resume(self) -> Found:
        """Largest difference of weights between two runs from one seed, and between a run and the same one interrupted."""
        model = FlowModel(blocks=3, widths=(8, 12, 16), dense_blocks=2, density_blocks=2)
        data, steps = load("mnist5k", "train"), 6 if self.brief else 20
        config = replace(FlowConfig().training, steps=steps, batch=16, log_every=1, sample_every=0, checkpoint_every=steps // 2)

        def weights(folder: str, config: TrainingConfig, resume: bool = False) -> dict[str, Tensor]:
            torch.manual_seed(0)
            objective = FlowMatchingObjective(build_flow(model), FlowConfig().objective)
            average: nn.Module = fit(objective, data, config, Run(folder), resume=resume, device=self.name).average
            return {name: value.cpu() for name, value in average.state_dict().items()}

        def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
            return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)

        found = Found()
        for name, deterministic in (("as torch has it", False), ("deterministic algorithms", True)):
            torch.use_deterministic_algorithms(deterministic)
            try:
                with TemporaryDirectory() as a, TemporaryDirectory() as b:
                    first, second = weights(a, config), weights(b, config)
                    shutil.rmtree(Run(b).checkpoints()[-1])
                    third = weights(b, config, resume=True)
                found[name] = {"two runs": gap(first, second), "whole and resumed": gap(first, third)}
            except RuntimeError as error:
                found[name] = str(error)[:300]
            finally:
                torch.use_deterministic_algorithms(False)
        return found

    def busy(self) -> Found:
        """What share of the time of a step the device computes, and what takes most of it; without the making of batches."""
        found = Found()
        for name in MEASURED:
            make, data, config = self.trainings()[name]
            step = self.step(make, data, 8 if self.brief else config.batch)
            whole = seconds(step, 1.0)
            with profile(activities=[ProfilerActivity.CUDA if self.cuda else ProfilerActivity.CPU]) as recorded:
                step()
                if self.cuda:
                    torch.cuda.synchronize()
            kind = "self_device_time_total" if self.cuda else "self_cpu_time_total"
            kernels = sorted(recorded.key_averages(), key=lambda event: -getattr(event, kind))
            working = sum(getattr(event, kind) for event in kernels) / 1e6
            found[name] = {
                "ms a step": round(1e3 * whole, 2),
                "kernels": sum(event.count for event in kernels),
                "share of the time that the device computes": round(working / whole, 2),
                "ms of": {event.key[:60]: round(getattr(event, kind) / 1e3, 3) for event in kernels[:6]},
            }
        return found

    def step(self, make: Callable[[], Objective], data: Source, rows: int) -> Callable[[], None]:
        """One step on a batch that lies on the device: losses, gradients, clipping, Adam."""
        torch.manual_seed(0)
        objective = make().to(self.device)
        batch, draws = next(batches(objective.draw, data.on(self.device), rows, 0, range(1), device=self.device))
        with torch.no_grad():
            objective.initialize(batch, draws)
        parameters = [p for p in objective.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, 1e-4, foreach=not self.cuda, fused=self.cuda)

        def step() -> None:
            optimizer.zero_grad()
            objective(batch, draws)["loss"].backward()
            nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()

        return step

    @property
    def name(self) -> Any:
        """The device, as `fit` takes it."""
        return "auto" if self.cuda else "cpu"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", default="runs/gpu")
    parser.add_argument("--brief", action="store_true", help="small sizes: that it works")
    parser.add_argument("--only", nargs="*", default=[], help="sections to measure")
    parser.add_argument("--seconds", type=float, default=360, help="no section begins after so many seconds")
    sys.exit(Measure(parser.parse_args()).run())
