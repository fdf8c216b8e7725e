"""Training of flow matching into a run folder."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from applications.common.data import NAMES, ImageSet, Tensors
from applications.common.data.sets import training_images
from applications.common.data.table import EXAMPLES, SUFFIXES, is_table
from applications.common.manifest import delete_run
from applications.common.parallel import accelerator_for
from applications.common.perceptual import perceptual
from applications.common.places import Folder
from applications.common.randomness import require_share
from applications.common.runs import Run
from applications.common.start import Start, ready
from applications.common.training import TrainingResult, fit, room
from applications.flow_matching.config import Config, settings
from applications.flow_matching.model import FlowMatching, build
from applications.flow_matching.objective import FlowMatchingObjective, LatentObjective
from applications.flow_matching.sampling import sample_grid
from applications.flow_matching.vectors import train_table
from induced.errors import DataError

LATENT = "latent"
"""Subfolder of a run that holds its second stage."""


def training_set(config: Config, data_dir: Folder | None = None) -> ImageSet:
    """The images to train on; those that mnist5k holds out are left out wherever they occur."""
    options = {"leave_out": config.leave_out, "skip_bad": config.skip_bad}
    return training_images(config.data, config.model.shape, data_dir, **options)


def train(config: Config, run: Run, *, data_dir: Folder | None = None, **begin: Unpack[Start]) -> TrainingResult:
    """Train a model from its seed into `run`; with couplings for the density the latent part again, into the subfolder `latent`.

    A mixture is fitted to the coordinates of all images when training ends. The second stage of couplings holds h and the family
    alone, and names the hash of the model that it was made from. Where a resumed run has another one, since the first stage went
    on, the second is trained anew, and says so; until then the model of the run is that of the first. The result is that of the
    last stage, with the time of both and the rows a second of the first.

    A table (`is_table(config.data)`) has no image to encode, and one stage: `train_table`.
    """
    if is_table(config.data):
        return train_table(config, run, **begin)
    if config.data not in NAMES:
        raise DataError(
            f"--data {config.data}: neither images ({', '.join(NAMES)}) nor a table ({', '.join(EXAMPLES)}, or a file that "
            f"ends in {', '.join(SUFFIXES)})"
        )
    latent, known = Run(run.folder / LATENT, label="stage 2 of 2, the coordinates: step"), settings(config)
    torch.manual_seed(config.training.seed)
    distance = perceptual(data_dir, config.objective.distance)
    objective = FlowMatchingObjective(build(config.model), config.objective, distance)
    # where both ends share h, it would forget the noise end while it learns the other
    trained = bool(objective.model.density) and objective.model.mixture is None
    has_second = bool(config.latent_steps and trained and config.model.noise_space == "euclidean")
    if has_second:
        run.label = "stage 1 of 2, the encoder: step"
    second = replace(config.training, steps=config.latent_steps, batch=config.latent_batch) if has_second else config.training
    accelerator, resume = accelerator_for(begin.get("device", "auto")), begin.get("resume", False)
    for stage in (config.training, second):
        require_share(stage.batch // accelerator.num_processes, config.objective.noise_share, "noise_share")
    goes_on = resume and run.steps() < config.training.steps
    kept = resume and not goes_on and _made_from(latent) == run.digest()
    ready(run, config.training, known, room(objective.model, config.training), **begin)
    if kept and has_second:
        ready(latent, second, known | {"made_from": run.digest()}, **begin)
    run.later = (LATENT,) if kept or (has_second and not resume) else ()
    data = training_set(config, data_dir)
    objective.fits(data.images, data.labels, config.training.steps)

    def shown(model: nn.Module, step: int) -> Tensor | None:
        return sample_grid(model, step) if isinstance(model, FlowMatching) else None

    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(run.locked())
        result = fit(objective, data, config.training, run, settings=known, on_sample=shown, **begin)
        if not has_second:
            return result
        begun, before = resume and _made_from(latent) == run.digest(), _made_from(latent)
        accelerator.wait_for_everyone()
        notes = list[str]()
        if accelerator.is_main_process:
            if before and not begun:
                notes = [f"{LATENT}/ was made from another encoder than there is now: the second stage is trained anew"]
                print(*notes, flush=True)
            if not begun:
                delete_run(latent.folder)
            run.later = (LATENT,)
            run.configure(run.config())
        model = cast(FlowMatching, result.average)
        name = f"leading coordinates of {data.name}"
        coordinates = Tensors(name, {"coordinates": model.encode_leading(data.images)}, made_from=f"{name} {data.fingerprint()}")
        known, begin["resume"], begin["overwrite"] = known | {"made_from": run.digest()}, begun, False
        rest = LatentObjective(model, config.objective)
        last = fit(rest, coordinates, second, latent, settings=known, on_sample=shown, **begin)
    both, notes = result.seconds + last.seconds, [*result.notes, *notes, *last.notes]
    return replace(last, seconds=both, rows_per_second=result.rows_per_second or last.rows_per_second, notes=tuple(notes))


def _made_from(latent: Run) -> str:
    """The hash of the model that a second stage was made from; empty where there is none."""
    return str(latent.config().get("made_from", "")) if latent.checkpoints() else ""
