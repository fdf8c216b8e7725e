"""Progress of a training, or of other long work, on a terminal (a bar) or in a log file (a line now and then)."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor
from tqdm import tqdm


class Progress:
    """Shows how far a training is, its loss and the time left.

    Arguments:
        start: Steps done before.
        total: Steps in all.
        batch: Rows a step.
        shown: False on all processes but one.
        label: What is done.
    """

    def __init__(self, start: int, total: int, batch: int, shown: bool, label: str) -> None:
        terminal, self._label = sys.stderr.isatty(), label
        self._bar = tqdm(total=total, initial=start, desc=label, unit="step", disable=not (shown and terminal))
        self._lines = shown and not terminal
        self._start, self._total, self._batch = start, total, batch
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def rate(self, step: int) -> float:
        """Rows a second since the start.

        Arguments:
            step: Steps done in all.

        Returns:
            The rate, 0 before the first step.
        """
        return (step - self._start) * self._batch / max(self.seconds, 1e-9)

    def step(self, loss: float) -> None:
        """Advance the bar by one step.

        Arguments:
            loss: Loss of the step.
        """
        self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self._bar.update()

    def line(self, step: int, losses: Mapping[str, float]) -> None:
        """Print a line where there is no bar.

        Arguments:
            step: Steps done in all.
            losses: What to show.
        """
        if self._lines:
            left = self.seconds / max(step - self._start, 1) * (self._total - step)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
            print(f"{self._label} {step}/{self._total}  {shown}  {self.rate(step):.0f} rows/s  {left:.0f} s left", flush=True)

    def close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        self._bar.close()


def counted(batches: Iterable[Tensor], total: int, what: str) -> Iterator[Tensor]:
    """Batches as they are made, with a bar on a terminal; in a log, a line for each tenth of all rows.

    Arguments:
        batches: Tensors (k, ...).
        total: Rows of all together.
        what: What a row is, in the plural.
    """
    terminal, done, began = sys.stderr.isatty(), 0, time.perf_counter()
    with tqdm(total=total, unit=f" {what}", disable=not terminal, delay=1) as bar:
        for batch in batches:
            yield batch
            before, done = done, done + len(batch)
            bar.update(len(batch))
            if not terminal and 10 * before // total < 10 * done // total < 10:
                left = (time.perf_counter() - began) / done * (total - done)
                print(f"{done} of {total} {what}, {left:.0f} s left", flush=True)
