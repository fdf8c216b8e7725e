"""The training loop of every application: deterministic from its config, resumable bit for bit, on any devices."""

import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from applications.common.data import Source
from applications.common.data.source import Batch
from applications.common.figures import save_picture
from applications.common.parallel import accelerator_for, accumulate, distribute, gather_weights, whole
from applications.common.progress import Progress
from applications.common.randomness import batch_indices, step_generator
from applications.common.runs import Run
from applications.common.settings import at_least, at_most
from applications.common.watch import Watch, terminated
from induced.errors import DataError, DomainError, ShapeError
from induced.serialization.writing import require_registered

Draws = dict[str, Tensor]
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
    """Decay of the moving average of the weights; after n steps it is min(this, (1 + n) / (10 + n))."""
    precision: Literal["no", "bf16"] = "no"
    """Autocast to bfloat16, or not."""
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
        if self.precision not in ("no", "bf16"):
            raise DomainError(f"precision is 'no' or 'bf16', got {self.precision!r}")


class Objective(nn.Module, ABC):
    """What is minimised: a model and the losses of a batch.

    Its randomness comes from `draw` alone, never from torch's global generator: that is what makes runs repeatable.
    """

    model: nn.Module
    """The module to train and average; it holds every trainable parameter."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Draws:
        """Draw all randomness of one step for a global batch, on the CPU.

        Arguments:
            n: Rows in the global batch.
            generator: The step's generator.

        Returns:
            Tensors whose first dimension is n.
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
            draws: Its randomness.

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
        KeyboardInterrupt: of SIGTERM, after the step that it came in, which has a checkpoint.

    Law:
        A run killed and resumed ends with the weights, average and optimiser state of one never interrupted, bit for
        bit on the CPU, if `steps` stays the same (applications/test_training.py)
    """
    require_registered(objective.saved(objective.model))
    accelerator = accelerator_for(device)
    batch_of_process = share(config, data, accelerator.num_processes)
    optimizer = torch.optim.Adam(_parameters(objective), lr=config.learning_rate, betas=config.betas)
    start, notes = 0, list[str]()
    with ExitStack() as stack:
        if accelerator.is_main_process:
            record = {"name": data.name, "rows": len(data), "sha256": data.fingerprint()}
            begun = {"training": asdict(config), "data": record} | dict(settings or {})
            needed = room(objective.model, config)
            run.check(begun, resume=resume, overwrite=overwrite, needed=needed)
            stack.enter_context(run.locked())
            notes = run.begin(begun, resume=resume, overwrite=overwrite, needed=needed)
        accelerator.wait_for_everyone()

        objective.to(accelerator.device)
        data = data.on(accelerator.device)
        if resume:
            checkpoint = run.latest(fallback)
            average = _average(objective.model, config)
            checkpoint.restore(objective.model, objective.saved(average.module), optimizer)
            start = checkpoint.step
            average.n_averaged.fill_(start)
            rate = f"at a learning rate of {learning_rate(config, start):.3g}, whose cosine ends at step {config.steps}"
            notes = [f"resumed after step {start}, {rate}", *filter(None, [checkpoint.note]), *notes]
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                run.rewind(start)
                print(*notes, sep="\n", flush=True)
        else:
            batch, draws = _batch(objective, data, config, 0, slice(None), accelerator.device)
            with torch.no_grad():
                objective.initialize(batch, draws)
            average = _average(objective.model, config)

        wrapped = distribute(accelerator, objective, optimizer, config.shard)
        mine = slice(accelerator.process_index * batch_of_process, (accelerator.process_index + 1) * batch_of_process)
        writer = None
        if accelerator.is_main_process:
            writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1 if resume else None)
        watch = Watch(run, config.steps)
        progress = Progress(start, config.steps, config.batch, accelerator.is_main_process, run.label)
        losses = _last_losses(run) if start >= config.steps else {}
        objective.train()
        asks = stack.enter_context(terminated())
        try:
            for step in range(start, config.steps):
                batch, draws = _batch(objective, data, config, step, mine, accelerator.device)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, step)
                optimizer.zero_grad()
                bf16, limit = config.precision == "bf16", math.inf if config.clip is None else config.clip
                with watch.forward(step + 1, learning_rate(config, step)):
                    outputs = accumulate(accelerator, wrapped, batch, draws, most=config.micro_batch, bf16=bf16)
                norm = whole(nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], limit))
                # One transfer for all numbers of a step: each would cost a wait for the device of its own.
                asked = torch.full_like(norm, float(asks()), dtype=torch.float32)  # of any process: all end at the same step
                local = torch.stack([*outputs.values(), norm.detach().float(), asked])
                *values, gradient_norm, ended = accelerator.reduce(local, "mean").tolist()
                losses = dict(zip(outputs, values, strict=True))
                watch.losses(losses, gradient_norm)
                optimizer.step()
                gather_weights(wrapped)
                average.update_parameters(objective.model)
                progress.step(losses["loss"])
                if writer is not None:
                    _record(run, writer, config, step + 1, losses, gradient_norm, progress)
                    _sample(run, writer, config, step + 1, average.module, objective, on_sample)
                if ended or (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                    weights, moments = whole(objective.model.state_dict(keep_vars=True)), whole(optimizer.state_dict())
                    watch.weights(weights, average.module.state_dict(), moments["state"])
                    if accelerator.is_main_process:
                        run.save(step + 1, weights, objective.saved(average.module), moments, keep=config.keep)
                if ended:
                    raise KeyboardInterrupt(signal.SIGTERM)
        finally:
            progress.close()
            if writer is not None:
                writer.close()
        accelerator.wait_for_everyone()
        done = max(start, config.steps)
        return TrainingResult(done, losses, progress.seconds, progress.rate(done), objective.saved(average.module), tuple(notes))


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


def _average(model: nn.Module, config: TrainingConfig) -> AveragedModel:
    """Make the moving average; its decay ramps up, lest a short run keep averaging in its first weights."""

    def update(averages: Any, currents: Any, _: Any) -> None:
        done = int(average.n_averaged)
        decay = min(config.average_decay, (1 + done) / (10 + done))
        get_ema_multi_avg_fn(decay)(averages, currents, done)  # type: ignore[no-untyped-call]

    average = AveragedModel(model, multi_avg_fn=update)
    return average.eval().requires_grad_(False)


def _batch(
    objective: Objective, data: Source, config: TrainingConfig, step: int, part: slice, device: torch.device
) -> tuple[Batch, Draws]:
    """Make one process' part of a step's batch; randomness is drawn for the whole batch (see `randomness`)."""
    generator = step_generator(config.seed, step)
    of_data = data.draw(config.batch, generator)
    draws = objective.draw(config.batch, generator)
    for who, drawn in ((data, of_data), (objective, draws)):
        for name, value in drawn.items():
            if value.ndim == 0 or len(value) != config.batch:
                raise ShapeError(
                    f"{type(who).__name__}.draw({config.batch}, ...) gave {name!r} of shape {tuple(value.shape)}; "
                    "its first dimension must be the global batch"
                )
    chosen = batch_indices(len(data), config.batch, config.seed, step)[part]
    batch = data.randomised(chosen, {name: value[part] for name, value in of_data.items()})
    short = {name: tuple(value.shape) for name, value in batch.items() if value.shape[:1] != chosen.shape}
    if short or not batch:
        raise ShapeError(f"{type(data).__name__} gave {short or 'nothing'} for {len(chosen)} rows; expected as many of each")
    return {name: value.to(device) for name, value in batch.items()}, {name: draws[name][part].to(device) for name in draws}


def _record(
    run: Run,
    writer: SummaryWriter,
    config: TrainingConfig,
    done: int,
    losses: Mapping[str, float],
    gradient_norm: float,
    progress: Progress,
) -> None:
    """Log a step that just finished, if its turn has come."""
    if done % config.log_every and done != config.steps:
        return
    scalars = {**losses, "gradient_norm": gradient_norm, "learning_rate": learning_rate(config, done - 1)}
    run.log({"step": done, **scalars, "seconds": round(progress.seconds, 3)})
    for name, value in scalars.items():
        writer.add_scalar(name, value, done)
    progress.line(done, losses)


def _sample(
    run: Run, writer: SummaryWriter, config: TrainingConfig, step: int, model: nn.Module, of: Objective, on_sample: Sampler | None
) -> None:
    """Ask for a picture and write it, if its turn has come."""
    if on_sample is None or not config.sample_every or step % config.sample_every:
        return
    with torch.no_grad():
        picture = on_sample(of.saved(model), step)
    if picture is not None:
        save_picture(run.folder / "samples" / f"step-{step:08d}.png", picture)
        writer.add_image("samples", picture.cpu(), step)


def _last_losses(run: Run) -> dict[str, float]:
    """Read the losses of a run that had already ended."""
    records = run.metrics()
    own = {"step", "seconds", "gradient_norm", "learning_rate"}
    return {name: value for name, value in records[-1].items() if name not in own} if records else {}
