"""Training for so much CPU time, repeatable by the number of its steps: what fits a model in one call, without a run folder."""

import copy
import math
import sys
import time
from collections.abc import Callable
from typing import Final

import torch
from torch import nn

from applications.common.average import average_of, move
from applications.common.batches import batches
from applications.common.data import Source
from applications.common.fitted import Fitted
from applications.common.training import Objective
from induced.errors import DomainError

WARMUP: Final = 100
HALF: Final = 1000
JUDGED: Final = 100


def fit_for(
    objective: Objective,
    source: Source,
    judge: Callable[[nn.Module], float],
    *,
    seconds: float | None = None,
    steps: int | None = None,
    batch: int = 256,
    learning_rate: float = 2e-3,
    clip: float = 5.0,
    seed: int = 0,
) -> tuple[nn.Module, Fitted]:
    """Train until the CPU time or the steps are used up, or nothing has improved for long; the best averaged model.

    Nothing depends on how long it goes on: the learning rate falls as 1 / sqrt(1 + step / 1000), and the average of the weights
    reaches over the last tenth of the steps. So the first steps of a longer fit are those of a shorter one.

    Arguments:
        objective: What is minimised; `objective.model` is trained.
        source: The data.
        judge: Loss of an averaged model on rows that are held out, asked for every 100 steps and at the end.
        seconds: CPU time of the process; or
        steps: how many steps.
        batch: Rows a step.
        learning_rate: Largest learning rate of Adam, after a warmup of 100 steps.
        clip: Largest norm of the gradient.
        seed: Seed of the order of rows and of all noise.

    Returns:
        The model, in evaluation mode and frozen, and what the fit came to.

    Raises:
        DomainError: not exactly one of seconds and steps, or it is not positive; a loss is not finite.
    """
    budget = seconds if steps is None else steps
    if budget is None or (seconds is None) == (steps is None) or not budget > 0:
        raise DomainError(f"give either seconds or steps, a positive number; got seconds={seconds} and steps={steps}")
    began = time.process_time()
    trained = [p for p in objective.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    average = average_of(objective.model)
    best, kept, loss, step = copy.deepcopy(average), 0, math.inf, 0
    made = batches(objective.draw, source, batch, seed, range(sys.maxsize))
    while True:
        used = time.process_time() - began
        over = step >= steps if steps is not None else used >= (seconds or 0.0)
        if over or (step % JUDGED == 0 and step):
            with torch.no_grad():
                found = judge(average)
            if found < loss:
                best, kept, loss = copy.deepcopy(average), step, found
        if over or step - kept > max(10 * JUDGED, step // 2):
            return best, Fitted(step, kept, loss, time.process_time() - began)
        objective.begin(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / WARMUP) / math.sqrt(1 + step / HALF)
        optimizer.zero_grad()
        value = objective(*next(made))["loss"]
        value.backward()
        norm = nn.utils.clip_grad_norm_(trained, clip)
        if not bool(norm.isfinite()):
            raise DomainError(
                f"the fit diverged at step {step + 1}: loss {float(value.detach()):.4g}, gradient norm {float(norm):.4g}; "
                "a smaller learning_rate is the usual remedy"
            )
        optimizer.step()
        step += 1
        move(average, objective.model, (1 + step) / (10 + step))
