"""One step in pieces, on several processes, with shards of the weights: always the step of one process at once.

Run as a program it is one of two processes that train: `torchrun ... --module proofs_tests.applications.test_distributed`.
"""

import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.numpy import load_file
from torch._C._distributed_c10d import HashStore

from applications.common.parallel import accelerator_for, accumulate, distribute
from applications.common.runs import Run
from applications.common.training import Objective, TrainingConfig, TrainingResult, fit
from applications.flow_matching.config import ModelConfig, ObjectiveConfig
from applications.flow_matching.model import build
from applications.flow_matching.objective import FlowMatchingObjective
from applications.idempotent import config as projector
from applications.idempotent.model import Idempotent
from applications.idempotent.objective import IdempotentObjective
from induced.errors import DomainError, ShapeError
from proofs_tests.applications import toy

ROOT = Path(__file__).resolve().parents[2]
TOY = replace(toy.CONFIG, steps=6, checkpoint_every=3, sample_every=0, log_every=1)
FLOW = TrainingConfig(steps=3, batch=16, learning_rate=1e-3, warmup=2, log_every=1, checkpoint_every=2)
MODEL = ModelConfig(
    shape=(1, 8, 8), blocks=1, widths=(4,), dense_blocks=2, dense_width=8, density_blocks=2, density_width=8, components=0, rank=4
)
CASES: dict[str, dict[str, Any]] = {
    "sharded": {"shard": True},
    "pieces": {"micro_batch": 3},
    "sharded pieces": {"shard": True, "micro_batch": 3},
}
"""What two processes do otherwise than one; each has 4 of the 8 images of a batch, so that the last piece is smaller."""


def flow(velocity: float = 1.0) -> Objective:
    """Tiny flow matching; one image in four is paired with noise."""
    torch.manual_seed(1)
    return FlowMatchingObjective(build(MODEL), ObjectiveConfig(noise_share=4, velocity=velocity))


def train_flow(folder: Path, *, resume: bool = False, velocity: float = 1.0, **changes: Any) -> TrainingResult:
    """Train it in a folder."""
    return fit(flow(velocity), toy.images(), replace(FLOW, **changes), Run(folder), resume=resume, device="cpu")


def train_projector(folder: Path, **changes: Any) -> TrainingResult:
    """Train a tiny projector, which hardens while it trains and looks at the isometry at every other step."""
    torch.manual_seed(1)
    model = Idempotent(projector.ModelConfig(shape=(1, 8, 8), blocks=1, widths=(4,), rank=8, hardening=5))
    objective = IdempotentObjective(model, projector.ObjectiveConfig(isometry=0.05, isometry_every=2))
    return fit(objective, replace(toy.images(), noise=False), replace(FLOW, steps=6, **changes), Run(folder), device="cpu")


def train_toy(folder: Path, *, resume: bool = False, **changes: Any) -> TrainingResult:
    """Train the toy in a folder; every process but the first begins with other weights, which must not matter."""
    objective = toy.Denoise()
    if os.environ.get("RANK", "0") != "0":
        with torch.no_grad():
            objective.model.decoder.weight.add_(1)
    return toy.train(folder, objective=objective, config=replace(TOY, **changes), resume=resume)


def forget_the_end(folder: Path, to: Path) -> None:
    """Copy a run without its last checkpoint, as if it had been killed before."""
    shutil.copytree(folder, to)
    shutil.rmtree(Run(to).checkpoints()[-1])


def tensors_of(folder: Path, file: str) -> dict[str, np.ndarray]:
    """Tensors of the newest checkpoint, but for one that the toy writes from one process' part of a batch."""
    tensors = load_file(Run(folder).checkpoints()[-1] / f"{file}.safetensors")
    return {name: value.astype(float) for name, value in tensors.items() if not name.endswith("last_mean")}


def assert_same_run(folder: Path, expected: Path, rel: float = 1e-5) -> None:
    """Losses and gradient norms of all steps; weights, average and moments at the end, each tensor against its own norm.

    Only sums over a batch are taken in another order: 1e-5 is about 100 roundings of float32.
    """
    for found, one in zip(Run(folder).metrics(), Run(expected).metrics(), strict=True):
        assert found | {"seconds": 0} == pytest.approx(one | {"seconds": 0}, rel=rel)
    for file in ("training", "model"):
        a, b = tensors_of(folder, file), tensors_of(expected, file)
        assert a.keys() == b.keys()
        for name, value in b.items():
            assert np.linalg.norm(a[name] - value) <= rel * np.linalg.norm(value), (file, name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: "one" and "flow one" by one process, all others by two, which also end what one began."""
    folder = tmp_path_factory.mktemp("distributed")
    train_toy(folder / "one")
    train_flow(folder / "flow one")
    train_flow(folder / "still one", velocity=0.0)
    train_projector(folder / "projector one")
    forget_the_end(folder / "one", folder / "begun")
    forget_the_end(folder / "flow one", folder / "flow begun")
    launcher = "torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint localhost:0 --module"
    command = [sys.executable, "-m", *launcher.split(), "proofs_tests.applications.test_distributed", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def moments_held() -> int:
    """Numbers of Adam's moments on this process after a step with shards."""
    objective, images, accelerator = toy.Denoise(), torch.ones(4, 1, 8, 8), Accelerator(cpu=True)
    optimizer = torch.optim.Adam(objective.parameters())
    wrapped = distribute(accelerator, objective, optimizer, shard=True)
    accumulate(accelerator, wrapped, {"images": images}, {"noise": images}, most=0, bf16=False)
    optimizer.step()
    return sum(value.to_local().numel() for entries in optimizer.state.values() for value in entries.values() if value.ndim)


def main(folder: Path) -> None:
    """The part of one of two processes."""
    for name, changes in CASES.items():
        train_toy(folder / name, **changes)
        train_flow(folder / f"flow {name}", **changes | ({"micro_batch": 4} if "micro_batch" in changes else {}))
    for name, pieces in (("two", 0), ("pieces", 4)):
        train_flow(folder / f"still {name}", velocity=0.0, micro_batch=pieces)
        train_projector(folder / f"projector {name}", micro_batch=pieces)
    train_toy(folder / "begun", resume=True, shard=True)
    train_flow(folder / "flow begun", resume=True, shard=True)
    (folder / f"moments of {os.environ['RANK']}").write_text(str(moments_held()))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("one", ["one", "flow one"])
def test_two_processes_with_shards_or_pieces_train_as_one(runs: Path, case: str, one: str) -> None:
    assert_same_run(runs / one.replace("one", case), runs / one)


@pytest.mark.parametrize("one", ["one", "flow one"])
def test_what_one_process_began_two_with_shards_end(runs: Path, one: str) -> None:
    assert_same_run(runs / one.replace("one", "begun"), runs / one)


def test_what_two_with_shards_began_one_process_ends(runs: Path, tmp_path: Path) -> None:
    forget_the_end(runs / "sharded", tmp_path / "run")
    train_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", runs / "one")


def test_each_of_two_processes_holds_half_of_the_moments(runs: Path) -> None:
    """But for the odd row of a weight of five."""
    all_of_them = 2 * sum(parameter.numel() for parameter in toy.Denoise().parameters())
    held = [int((runs / f"moments of {rank}").read_text()) for rank in (0, 1)]
    assert sum(held) == all_of_them and max(held) <= 0.55 * all_of_them


def test_one_process_with_shards_trains_as_without(tmp_path: Path, runs: Path) -> None:
    forget_the_end(runs / "one", tmp_path / "run")
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        train_toy(tmp_path / "run", resume=True, shard=True, micro_batch=3)
    finally:
        torch.distributed.destroy_process_group()
    assert_same_run(tmp_path / "run", runs / "one")


def test_a_checkpoint_of_shards_holds_a_shared_weight_under_each_name(runs: Path) -> None:
    weights = Run(runs / "sharded").latest().model
    assert weights.keys() == Run(runs / "one").latest().model.keys() > tensors_of(runs / "one", "model").keys()
    assert torch.equal(weights["twin.weight"], weights["encoder.weight"])


@pytest.mark.parametrize("most", [1, 3, 8, 100])
def test_pieces_train_as_the_whole(tmp_path: Path, runs: Path, most: int) -> None:
    train_toy(tmp_path, micro_batch=most)
    assert_same_run(tmp_path, runs / "one")


def test_pieces_of_flow_matching_train_as_the_whole(tmp_path: Path, runs: Path) -> None:
    train_flow(tmp_path, micro_batch=12)
    assert_same_run(tmp_path, runs / "flow one")


def test_gradients_that_are_added_without_the_share_of_their_piece_are_not_the_whole(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam would hide the factor from the weights: it is the gradient norm that tells."""
    monkeypatch.setattr(Accelerator, "backward", lambda self, loss: (2 * loss).backward())
    train_toy(tmp_path, micro_batch=4)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path, runs / "one")


def test_processes_exchange_gradients_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = []
    no_sync = Accelerator.no_sync

    def counted(self: Accelerator, model: torch.nn.Module) -> AbstractContextManager[None]:
        silent.append(model)
        return no_sync(self, model)

    monkeypatch.setattr(Accelerator, "no_sync", counted)
    objective, images = toy.Denoise(), torch.zeros(8, 1, 8, 8)
    accumulate(Accelerator(cpu=True), objective, {"images": images}, {"noise": images}, most=3, bf16=False)
    assert silent == [objective, objective]


def test_pieces_resumed_are_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    train_toy(tmp_path / "whole", micro_batch=3)
    forget_the_end(tmp_path / "whole", tmp_path / "resumed")
    train_toy(tmp_path / "resumed", resume=True, micro_batch=3)
    whole, resumed = (Run(tmp_path / name).checkpoints()[-1] for name in ("whole", "resumed"))
    assert whole.name == resumed.name == "step-00000006"
    for path in whole.iterdir():
        assert path.read_bytes() == (resumed / path.name).read_bytes(), path.name


@pytest.mark.parametrize("run", ["two", "pieces"])
@pytest.mark.parametrize("kind", ["still", "projector"])
def test_weights_that_no_loss_reaches_and_losses_that_change_train_as_on_one_process(runs: Path, kind: str, run: str) -> None:
    assert_same_run(runs / f"{kind} {run}", runs / f"{kind} one")


def test_a_projector_counts_steps_and_not_pieces(tmp_path: Path, runs: Path) -> None:
    train_projector(tmp_path, micro_batch=4)
    assert_same_run(tmp_path, runs / "projector one")
    looked = ["isometry" in record for record in Run(tmp_path).metrics()]
    assert looked == [False, True] * 3


def test_pieces_that_would_pair_other_images_with_noise_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="here 6 rows, must be a multiple of noise_share=4"):
        train_flow(tmp_path, micro_batch=6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("USE_FSDP", "true", "asks for FSDP .*launch without it, and give --shard"),
        ("USE_DEEPSPEED", "true", "asks for DEEPSPEED .*launch without it, and give --shard"),
        ("USE_PARALLELISM_CONFIG", "1", "launch without it, and give --shard"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", r"gradient accumulation \(ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4\).*--micro"),
        ("DYNAMO_BACKEND", "INDUCTOR", r"a compiled model \(ACCELERATE_DYNAMO_BACKEND=INDUCTOR\)"),
        ("MIXED_PRECISION", "bf16", r"mixed precision \(ACCELERATE_MIXED_PRECISION=bf16\).*give --precision bf16"),
        ("TORCH_DEVICE", "meta", r"a device \(ACCELERATE_TORCH_DEVICE=meta\).*give --device"),
    ],
)
def test_an_environment_that_would_change_a_training_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(DomainError, match=message):
        toy.train(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_launcher_sets_by_default_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "USE_FSDP": "false",
        "GRADIENT_ACCUMULATION_STEPS": "1",
        "DYNAMO_BACKEND": "no",
        "MIXED_PRECISION": "no",
    }.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert accelerator_for("cpu").gradient_accumulation_steps == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
