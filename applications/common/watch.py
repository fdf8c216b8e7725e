"""What stops a training that diverges, before it replaces its good checkpoints by worse ones."""

import math
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from torch import Tensor

from applications.common.runs import Run
from applications.common.settings import flat
from induced.errors import DomainError, NotConverged, SingularOperator

GROWTH: Final = 1e3
"""A loss has diverged where it is so many times the first one, or 1 if that is smaller, ..."""
PATIENCE: Final = 10
"""... for so many steps on end, or at a step that would be saved."""


class Watch:
    """Looks at each step of a training.

    Arguments:
        run: The run.
        steps: Steps of the training in all.
    """

    def __init__(self, run: Run, steps: int) -> None:
        records = run.metrics()
        self.run, self.steps, self.step, self.rate = run, steps, 0, 0.0
        self.first = float(records[0]["loss"]) if records and "loss" in records[0] else math.nan
        self.high = 0

    @contextmanager
    def forward(self, step: int, rate: float, before: Callable[[], object]) -> Iterator[None]:
        """Around the losses of a step, the first being 1: what fails there may come of a step before that diverged.

        Arguments:
            step: The step.
            rate: Its learning rate.
            before: Looks at the losses of the step before, which may have diverged already.

        Raises:
            DomainError: the step before diverged; or a chart or operator refused a value, and it is not the first step.
        """
        try:
            yield
        except Exception as error:
            if step == 1:
                raise
            before()
            if not isinstance(error, DomainError | SingularOperator | NotConverged):
                raise
            self.step, self.rate = step, rate
            raise self._stop(fact(error)) from error

    def losses(self, step: int, rate: float, losses: Mapping[str, float], gradient_norm: float) -> None:
        """What a step came to, before anything that it led to is saved.

        Raises:
            DomainError: a loss or the gradient is not finite, or the loss has been far above the first one for long.
        """
        self.step, self.rate = step, rate
        bad = [f"{n} = {v}" for n, v in {**losses, "gradient_norm": gradient_norm}.items() if not math.isfinite(v)]
        if bad:
            raise self._stop(", ".join(bad))
        self.last = losses["loss"]
        if math.isnan(self.first):
            self.first = self.last
        self.high = self.high + 1 if self.last > GROWTH * max(1.0, abs(self.first)) else 0
        if self.high >= PATIENCE:
            raise self._grown()

    def weights(self, *states: Mapping[str, Any]) -> None:
        """Before a checkpoint is written.

        Raises:
            DomainError: the states hold a number that is not finite, or the loss is far above the first one.
        """
        if self.high:
            raise self._grown()
        tensors = [(name, value) for state in states for name, value in flat(state) if isinstance(value, Tensor)]
        bad = sorted({name for name, value in tensors if not bool(value.isfinite().all())})
        if bad:
            raise self._stop(f"{', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''} hold numbers that are not finite")

    def _grown(self) -> DomainError:
        return self._stop(f"the loss is {self.last:.3g}, it was {self.first:.3g} at first")

    def _stop(self, what: str) -> DomainError:
        saved = self.run.checkpoints()
        smaller = f"--learning-rate {self.rate / 3:.1g}"
        return DomainError(
            f"training stopped at step {self.step} of {self.steps}, at a learning rate of {self.rate:.3g}: {what}; "
            + (f"the last good checkpoint is {saved[-1]}: go on from it" if saved else "there is no checkpoint yet: start anew")
            + f" with {'--resume ' if saved else ''}{smaller}. A longer warmup, --clip or precision 'no' help too"
        )


@contextmanager
def terminated() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM ends nothing: the function that it gives says whether one came. Only the main thread may ask for that."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def fact(error: Exception) -> str:
    """What a chart or operator refused, without the advice to use float64, which helps no training that diverges."""
    return re.sub("[:;][^:;]*float64[^:;]*$", "", str(error))
