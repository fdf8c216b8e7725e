"""What any function of samples promises: each result is its own, the same when asked again, and its input is left alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from induced.checks.measure import Noise, attempt, compare, exactly, longest
from induced.checks.report import Report
from induced.checks.untouched import different_bits

Function = Callable[[Tensor], Tensor]


def same_again(name: str, module: nn.Module, f: Function, x: Tensor, result: Tensor) -> Report:
    """The bits of the first answer again, in train and eval mode: asked last, when all else has been called."""

    def judge(law: str, statement: str) -> Report:
        answers = []
        for mode in (True, True, False):
            module.train(mode)
            answers.append(f(x.clone()))
        return exactly(law, statement, sum(different_bits(answer, result) for answer in answers), x)

    return attempt(f"{name} is deterministic in train and eval mode", "contract", judge)


def left_alone(name: str, given: Tensor, before: Tensor) -> Report:
    """What was given is as it was, bit for bit."""
    return exactly(f"{name} leaves its input as it is", "contract", different_bits(given, before), before)


def rearrangements(name: str, f: Function, x: Tensor, result: Tensor, known: Noise) -> list[Report]:
    """A sample's result does not depend on the samples beside it, on how the batch is arranged, nor on gradients being asked for.

    The batch is arranged in another order, in up to three dimensions, and in memory with gaps between its numbers.

    Arguments:
        f: maps samples (*batch, ...), for any batch.
        x, result: samples (k, ...) and what f gives of them as one batch.
        known: what rounding may do to the result.
    """

    def judge(law: str, statement: str, pairs: list[tuple[Tensor, Tensor]]) -> Report:
        difference = torch.cat([came - expected for came, expected in pairs])
        return compare(law, statement, difference, longest(result), known, x)

    def alone(law: str, statement: str) -> Report:
        ends = sorted({0, len(x) - 1})
        singles = [(f(x[i].clone()).unsqueeze(0), result[i : i + 1]) for i in ends]
        return judge(law, statement, singles + [(f(x[i : i + 1].clone()), result[i : i + 1]) for i in ends])

    def rearranged(law: str, statement: str) -> Report:
        y, expected = x.flip(0), result.flip(0)
        gaps = torch.stack([torch.zeros_like(y), y], -1)[..., 1]
        inner, outer = f(y[None, :, None].clone())[0, :, 0], f(y.unsqueeze(1).clone())[:, 0]
        return judge(law, statement, [(f(gaps), expected), (inner, expected), (outer, expected)])

    def with_gradients(law: str, statement: str) -> Report:
        with torch.enable_grad():
            came = f(x.clone().requires_grad_()).detach()
        return judge(law, statement, [(came, result)])

    return [
        attempt(f"{name} of a sample is the same alone and in a batch", "contract", alone),
        attempt(f"{name} of a batch is the same in any order and shape", "contract", rearranged),
        attempt(f"{name} is the same where gradients are asked for", "contract", with_gradients),
    ]
