"""What a fit in one call came to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fitted:
    """What a fit came to.

    Attributes:
        steps: steps taken; `steps=` of this number repeats the fit bit for bit, on the same machine and number of threads.
        kept: the step whose averaged weights were best on the rows held out, and are the model's.
        loss: their loss.
        seconds: CPU time.
    """

    steps: int
    kept: int
    loss: float
    seconds: float
