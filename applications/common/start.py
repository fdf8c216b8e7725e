"""How a training starts: what `train` of every application passes on to `fit`, and what is refused before data are read."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypedDict, Unpack

from accelerate import Accelerator

from applications.common.parallel import accelerator_for
from applications.common.runs import Run


class Start(TypedDict, total=False):
    """Keywords of `fit`, which says what they do."""

    resume: bool
    overwrite: bool
    fallback: bool
    device: str


def ready(run: Run, training: Any, settings: Mapping[str, Any], needed: int = 0, **start: Unpack[Start]) -> Accelerator:
    """Refuse a start that `fit` would refuse, before work goes into data and models.

    Arguments:
        run: The run folder.
        training: The settings of the training, a dataclass.
        settings: Further ones, as `fit` takes them.
        needed: Bytes that the run will take on disk.
        start: Whether the run goes on or begins anew, and where.

    Returns:
        What joins the processes.

    Raises:
        CheckpointError: as `Run.begin`.
    """
    accelerator = accelerator_for(start.get("device", "auto"))
    if accelerator.is_main_process:
        config = {"training": asdict(training)} | dict(settings)
        run.check(config, resume=start.get("resume", False), overwrite=start.get("overwrite", False), needed=needed)
    return accelerator
