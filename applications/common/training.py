"""The training loop of every application: deterministic from its config, resumable bit for bit, on any devices."""

import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from applications.common.average import average_of, move
from applications.common.batches import batches
from applications.common.data import Source
from applications.common.data.source import Batch
from applications.common.figures import save_picture
from applications.common.parallel import accelerator_for, accumulate, distribute, gather_weights, later, whole
from applications.common.progress import Progress
from applications.common.randomness import Asked, Draws
from applications.common.runs import Run
from applications.common.settings import at_least, at_most
from applications.common.watch import Watch, terminated
from induced.errors import DataError, DomainError, ShapeError
from induced.precision import allow_tf32, full_precision
from induced.serialization.writing import require_registered

LARGEST_BATCH: Final = 10**6
"""A step draws its randomness for all rows at once."""
Sampler = Callable[[nn.Module, int], Tensor | None]


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training."""

    steps: int = 2000
    """Optimiser steps in all."""
    batch: int = 128
    """Rows (images, vectors) a step, over all processes."""
    micro_batch: int = 0
    """Most rows that a process takes through the model at a time; gradients add up. 0: its whole part of the batch."""
    shard: bool = False
    """Share the optimiser's state and the gradients out among the processes (FSDP) rather than keep all on each (DDP)."""
    learning_rate: float = 1e-3
    """Largest learning rate of Adam, reached after the warmup."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's first and second moments."""
    warmup: int = 100
    """Steps over which the learning rate rises linearly."""
    final_fraction: float = 0.05
    """Learning rate at the end of its cosine, as a fraction of the largest."""
    clip: float | None = 1.0
    """Largest norm of the gradient; longer ones are shortened. None: no limit."""
    average_decay: float = 0.999
    """Decay of the moving average of the weights; after n steps it is min(this, (1 + n) / (10 + n)), lest a short run keep
    averaging in its first weights."""
    precision: Literal["no", "bf16"] = "no"
    """Autocast to bfloat16, or not."""
    compile: bool = False
    """Compile losses and gradients into one graph of fewer kernels: minutes at the start, and no use on a CPU."""
    seed: int = 0
    """Seed of the order of rows and of all noise."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    sample_every: int = 0
    """Steps between two pictures of samples; 0: none."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; the last step always has one."""
    keep: int = 2
    """Newest checkpoints that stay; a fallback needs 2."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        at_least(1, self, "steps", "batch", "log_every", "checkpoint_every", "keep")
        at_least(0, self, "warmup", "sample_every", "final_fraction", "micro_batch")
        at_most(LARGEST_BATCH, self, "batch")
        if not 0 <= self.seed < 2**63:
            raise DomainError(f"seed lies in 0..2^63 - 1, got {self.seed}")
        if not self.learning_rate > 0:
            raise DomainError(f"learning_rate must be positive, got {self.learning_rate}")
        if not all(0 <= rate < 1 for rate in (*self.betas, self.average_decay)):
            raise DomainError(f"average_decay and betas must lie in [0, 1), got {self.average_decay} and {self.betas}")
        if self.clip is not None and not self.clip > 0:
            raise DomainError(f"clip must be positive, or None for no limit; got {self.clip}")
        if self.compile and self.shard:
            raise DomainError("a compiled graph does not follow weights that are shared out: give --compile or --shard, not both")
        if self.precision not in ("no", "bf16"):
            raise DomainError(f"precision is 'no' or 'bf16', got {self.precision!r}")


class Objective(nn.Module, ABC):
    """What is minimised: a model and the losses of a batch.

    Its randomness comes from `draw` alone, never from torch's global generator: that is what makes runs repeatable.
    """

    model: nn.Module
    """The module to train and average; it holds every trainable parameter."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Asked:
        """Ask for all randomness of one step, by the arguments alone: where a device computes, a thread does so a step ahead.

        Arguments:
            n: Rows in the global batch.
            generator: The step's generator, on the CPU.

        Returns:
            By name `Noise`, or tensors that are drawn here; their first dimensions are n, or divide it.
        """

    def begin(self, step: int) -> None:
        """Get ready for a step where losses change in the course of a training: with `compile` by `tensor.fill_` alone.

        Arguments:
            step: Steps done before.
        """

    def initialize(self, batch: Batch, draws: Draws) -> None:
        """Set what depends on data (ActNorm), once, before the first step of a fresh run, never on resume; nothing, by default.

        Arguments:
            batch: The first global batch, as the source names its tensors: "images", `(n, C, H, W)` in [-1, 1), of an `ImageSet`.
            draws: Its randomness.
        """

    @abstractmethod
    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Compute the losses of one process' part of a batch, each a mean over its rows.

        Arguments:
            batch: The part, as the source names its tensors.
            draws: Its randomness, as `rows_of` gives it.

        Returns:
            Scalars; "loss" is minimised, the others are logged.
        """

    def saved(self, model: nn.Module) -> nn.Module:
        """What checkpoints hold of the averaged model, of a registered class: itself, or a whole that it is a part of."""
        return model


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Arguments:
        steps: Steps done in all.
        losses: Losses of the last step, means over the global batch.
        seconds: Wall time of this call.
        rows_per_second: Rows (images, vectors) trained on a second in this call, over all processes.
        average: The moving average of the model.
        notes: What happened on the way that the user should know (resumed where, a fallback).
    """

    steps: int
    losses: dict[str, float]
    seconds: float
    rows_per_second: float
    average: nn.Module
    notes: tuple[str, ...] = field(default=())


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of a step: linear warmup, then half a cosine down to `final_fraction` of the largest.

    Arguments:
        config: The settings.
        step: Steps done before.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    floor = config.final_fraction
    return config.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def fit(
    objective: Objective,
    data: Source,
    config: TrainingConfig,
    run: Run,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    fallback: bool = False,
    device: str = "auto",
    on_sample: Sampler | None = None,
) -> TrainingResult:
    """Train `objective.model` on batches of a source with Adam, and leave a run folder behind.

    Started by torchrun (or `accelerate launch --multi_gpu`) it runs on several processes, each with its slice of every
    batch; all must see the same run folder. Only the first one writes. (`accelerate launch --cpu` starts only one.)
    The steps are those of one process, up to rounding. With `shard`, `objective.model` ends as shards: use the average.

    Arguments:
        objective: What is minimised; moved to the device.
        data: The training data: an `ImageSet`, `Tensors`, or another source; put on the device once where they fit.
        config: The settings.
        run: The run folder.
        settings: Further settings to record in config.json and to compare on resume (the model's, for one).
        resume: Go on from the newest checkpoint.
        overwrite: Delete an earlier run in the folder.
        fallback: On resume, pass over a damaged newest checkpoint.
        device: As `pick` takes it, "cuda" for one; "auto" takes an accelerator if it has float64.
        on_sample: Called with the averaged model, in evaluation mode and without gradients, and the steps done, every
            `sample_every` steps; may return a picture, uint8 (C, H, W), for samples/ and TensorBoard.

    Returns:
        The result, with the averaged model.

    Raises:
        DataError: there are no rows.
        ShapeError: the batch does not divide among the processes, or the objective's draws or losses are malformed.
        DomainError: the training diverges, before a checkpoint of that is written (`Watch`); parameters outside
            `objective.model` would be trained; or the launcher would shard by itself.
        CheckpointError: the class of the model is not registered; or as `Run.begin` and `Run.latest` say.
        KeyboardInterrupt: of SIGTERM, after the step that follows it, which has a checkpoint.

    Law:
        A run killed and resumed ends with the weights, average and optimiser state of one never interrupted, bit for
        bit on the CPU, if `steps` stays the same (applications/test_training.py)
    """
    require_registered(objective.saved(objective.model))
    accelerator = accelerator_for(device)
    batch_of_process = share(config, data, accelerator.num_processes)
    fused = accelerator.device.type != "cpu"
    optimizer = torch.optim.Adam(_parameters(objective), lr=config.learning_rate, betas=config.betas, fused=fused)
    start, notes = 0, list[str]()
    with ExitStack() as stack:
        stack.enter_context(allow_tf32())
        if accelerator.is_main_process:
            begun = {"training": asdict(config), "data": data.record()} | dict(settings or {})
            needed = room(objective.model, config)
            run.check(begun, resume=resume, overwrite=overwrite, needed=needed)
            stack.enter_context(run.locked())
            notes = run.begin(begun, resume=resume, overwrite=overwrite, needed=needed)
        accelerator.wait_for_everyone()

        objective.to(accelerator.device)
        data = data.on(accelerator.device)
        made = partial(batches, objective.draw, data, config.batch, config.seed, device=accelerator.device)
        if resume:
            checkpoint = run.latest(fallback)
            average = average_of(objective.model)
            checkpoint.restore(objective.model, objective.saved(average), optimizer)
            start = checkpoint.step
            at = f"at a learning rate of {learning_rate(config, start):.3g}, whose cosine ends at step {config.steps}"
            notes = [f"resumed after step {start}, {at}", *filter(None, [checkpoint.note]), *notes]
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                run.rewind(start)
                print(*notes, sep="\n", flush=True)
        else:
            with torch.no_grad():
                objective.initialize(*next(made(range(1))))
            average = average_of(objective.model)

        begin = accelerator.process_index * batch_of_process
        mine, few = (slice(begin, begin + rows) for rows in (batch_of_process, config.micro_batch or batch_of_process))
        wrapped = distribute(
            accelerator, objective, optimizer, config.shard, lambda: objective(*next(made(range(1), few)))["loss"]
        )
        if config.compile:
            # torch 2.13 would write over a saved tensor of another shape that the same kernel still reads
            objective.compile(fullgraph=True, options={"inplace_buffers": False})
        writer = None
        if accelerator.is_main_process:
            writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1 if resume else None)
        watch = Watch(run, config.steps)
        progress = Progress(start, config.steps, config.batch, accelerator.is_main_process, run.label)
        losses = _last_losses(run) if start >= config.steps else {}
        objective.train()
        asks = stack.enter_context(terminated())
        bf16, limit = config.precision == "bf16", math.inf if config.clip is None else config.clip
        left = range(start, config.steps)
        rows = stack.enter_context(closing(made(left, mine)))
        late = list[tuple[int, tuple[str, ...], Callable[[], list[float]]]]()

        def settled() -> bool:
            """Look at the losses that are on their way from the device; whether a process was asked to end by then."""
            nonlocal losses
            if not late:
                return False
            done, names, numbers = late.pop()
            *values, gradient_norm, ended = numbers()
            losses = dict(zip(names, values, strict=True))
            watch.losses(done, learning_rate(config, done - 1), losses, gradient_norm)
            progress.step(losses["loss"])
            if writer is not None:
                _record(run, writer, config, done, losses, gradient_norm, progress)
            return bool(ended)

        try:
            for step, (batch, draws) in zip(left, rows, strict=False):
                done, rate = step + 1, learning_rate(config, step)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad()
                objective.begin(step)
                with watch.forward(done, rate, settled):
                    outputs = accumulate(accelerator, wrapped, batch, draws, most=config.micro_batch, bf16=bf16)
                norm = whole(nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], limit))
                asked = torch.full_like(norm, float(asks()), dtype=torch.float32)  # of any process: all end at the same step
                local = torch.stack([*outputs.values(), norm.detach().float(), asked])
                # A device works on while the numbers of the step before are looked at, which were sent in one copy.
                ended = settled()
                late.append((done, tuple(outputs), later(accelerator.reduce(local, "mean"))))
                optimizer.step()
                gather_weights(wrapped)
                move(average, objective.model, min(config.average_decay, (1 + step) / (10 + step)) if step else 0.0)
                saves = not done % config.checkpoint_every or done == config.steps
                shows = config.sample_every and not done % config.sample_every
                if ended or saves or shows:  # nothing that diverged is shown or saved
                    ended |= settled()
                if shows and writer is not None and on_sample is not None:
                    _sample(run, writer, done, objective.saved(average), on_sample)
                if ended or saves:
                    weights, moments = whole(objective.model.state_dict(keep_vars=True)), whole(optimizer.state_dict())
                    watch.weights(weights, average.state_dict(), moments["state"])
                    if accelerator.is_main_process:
                        run.save(done, weights, objective.saved(average), moments, keep=config.keep)
                if ended:
                    raise KeyboardInterrupt(signal.SIGTERM)
        finally:
            progress.close()
            if writer is not None:
                writer.close()
        accelerator.wait_for_everyone()
        done = max(start, config.steps)
        return TrainingResult(done, losses, progress.seconds, progress.rate(done), objective.saved(average), tuple(notes))


def share(config: TrainingConfig, data: Source, processes: int) -> int:
    """Divide the global batch among the processes."""
    if len(data) == 0:
        raise DataError(f"{data.name!r} holds no row to train on")
    if config.batch % processes:
        raise ShapeError(f"a batch of {config.batch} does not divide among {processes} processes: give a multiple of {processes}")
    return config.batch // processes


def room(model: nn.Module, config: TrainingConfig) -> int:
    """Bytes of the checkpoints that stay, and of one more while it is written: weights, average and two moments, each."""
    return 4 * (config.keep + 1) * sum(value.numel() * value.element_size() for value in model.parameters())


def _parameters(objective: Objective) -> list[nn.Parameter]:
    """List what is trained; a trainable parameter outside the model would be lost on resume."""
    inside = {id(parameter) for parameter in objective.model.parameters()}
    outside = [name for name, p in objective.named_parameters() if p.requires_grad and id(p) not in inside]
    if outside:
        raise DomainError(
            f"{type(objective).__name__} has trainable parameters outside its model, which no checkpoint would hold: "
            f"{', '.join(outside)}; move them into the model or set requires_grad=False"
        )
    return [parameter for parameter in objective.model.parameters() if parameter.requires_grad]


def _record(
    run: Run,
    writer: SummaryWriter,
    config: TrainingConfig,
    done: int,
    losses: Mapping[str, float],
    gradient_norm: float,
    progress: Progress,
) -> None:
    """Log a step, if its turn has come."""
    if done % config.log_every and done != config.steps:
        return
    scalars = {**losses, "gradient_norm": gradient_norm, "learning_rate": learning_rate(config, done - 1)}
    run.log({"step": done, **scalars, "seconds": round(progress.seconds, 3)})
    for name, value in scalars.items():
        writer.add_scalar(name, value, done)
    progress.line(done, losses)


def _sample(run: Run, writer: SummaryWriter, step: int, model: nn.Module, on_sample: Sampler) -> None:
    """Ask for a picture and write it."""
    with torch.no_grad(), full_precision():
        picture = on_sample(model, step)
    if picture is not None:
        save_picture(run.folder / "samples" / f"step-{step:08d}.png", picture)
        writer.add_image("samples", picture.cpu(), step)


def _last_losses(run: Run) -> dict[str, float]:
    """Read the losses of a run that had already ended."""
    records = run.metrics()
    own = {"step", "seconds", "gradient_norm", "learning_rate"}
    return {name: value for name, value in records[-1].items() if name not in own} if records else {}
