"""Calls beside those of the commands, with a model on a device: the CPU's numbers, wherever labels, amounts and bytes lie."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from applications.common import metrics
from applications.common.classifier import digit_classifier
from applications.common.data import load, to_uint8, to_unit
from applications.common.data.table import as_table, csv_text
from applications.common.features import extract
from applications.common.perceptual import perceptual
from applications.flow_matching import evaluate
from applications.flow_matching import sampling as flow
from applications.idempotent import sampling as projector
from applications.idempotent.evaluate import PrincipalProjection, bits
from applications.idempotent.inputs import KINDS, inputs
from applications.style_transfer import algebra
from applications.style_transfer.new_style import fit_kernel
from induced.checks import Report
from proofs_tests.applications.flow_matching import models as flows
from proofs_tests.applications.idempotent import models as projectors
from proofs_tests.applications.style_transfer import models as styles
from proofs_tests.device import StandIn
from proofs_tests.tf32 import convolutions_allowed

Call = Callable[[Any, Tensor], Any]
"""Of a model and of points, both on the device."""

LABELS = torch.arange(12) % 2


def gaussian(model: Any, x: Tensor) -> Tensor:
    return projector.RangeGaussian(model.operator(), x, LABELS).sample(4)


def aligned(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Turned, and on its lattice."""
    model.align(x)
    return model.operator(exact=False)(x), model.operator()(x)


FLOW: dict[str, Call] = {
    "one_step": lambda m, x: [row.condition for row in evaluate.one_step(m, counts=(1,), batch=2)],
    "convergence_order": lambda m, x: evaluate.convergence_order(m, "euler", (2, 4)),
    "promises": lambda m, x: [r.residual <= r.tolerance for r in evaluate.promises(m, m.operator(2), flow.noise(m, 2), x[:2], 2)],
    "inversion": lambda m, x: evaluate.inversion(m.operator(4), x).encoding_std,
    "bits_per_dimension": lambda m, x: evaluate.bits_per_dimension(m.operator(4), to_uint8(x.cpu()), 0 * x.cpu()),
    "exact_times": lambda m, x: flow.exact_times(m, 1e-2),
    "move": lambda m, x: flow.move(m.codes(), x[0], flow.direction(m.codes(), x[:3], x[3:]), torch.linspace(-1, 1, 3)),
    "multi_step": lambda m, x: m.multi_step(flow.noise(m, 3), 4),
    "encode_leading": lambda m, x: m.encode_leading(to_uint8(x.cpu())),
    "svd": lambda m, x: m.operator(4).svd().values,
}
PROJECTOR: dict[str, Call] = {
    "noise": lambda m, x: projector.noise(m.operator(), 3, like=x),
    "principal_range": lambda m, x: projector.principal_range(m.operator(), x, 3).project(x),
    "RangeGaussian": gaussian,
    "RangeGaussian of labels there": lambda m, x: projector.RangeGaussian(m.operator(), x, LABELS.to(x.device)).sample(4),
    "align": aligned,
    "bits": lambda m, x: bits(m.operator(), x, (5,)).equal,
    "PrincipalProjection": lambda m, x: PrincipalProjection(x, 3).distance(x),
    **{f"inputs: {kind}": lambda m, x, kind=kind: inputs(kind, x) for kind in KINDS},  # type: ignore[misc]
}
STYLES: dict[str, Call] = {
    "mix, strength": lambda m, x: algebra.strength(s := m.at(16, 20), algebra.mix(s, {"candy": 0.5, "udnie": 0.5}), 1.5)(x),
    "remove": lambda m, x: algebra.remove(m.at(16, 20)["candy"])(x),
    "low_rank": lambda m, x: algebra.low_rank(s := m.at(16, 20), s["candy"], 4)(x),
    "distances": lambda m, x: algebra.distances(m.at(16, 20)),
    "principal_styles": lambda m, x: algebra.principal_styles(m.at(16, 20)).explained,
    "fit_kernel": lambda m, x: fit_kernel(m, x, x.flip(0)),
    "pyramid": lambda m, x: perceptual(None, "pyramid")(x, x.flip(0)),
}
CLASSIFIER: dict[str, Call] = {
    "features": lambda m, x: extract(m.features, to_uint8(x.cpu()), 5, device=x.device),
    "class_balance": lambda m, x: metrics.class_balance(m(x), LABELS.bincount(minlength=10)),
    "auroc": lambda m, x: metrics.auroc(x[:6].mean((1, 2, 3)), x[6:].mean((1, 2, 3))),
    "frechet_distance": lambda m, x: metrics.frechet_distance(m(x)[:6], m(x)[6:]),
    "precision_recall": lambda m, x: metrics.precision_recall(m(x)[:6], m(x)[6:]),
}
DIGITS = to_unit(load("mnist5k", "test").images[::40])[:12]
MADE: dict[str, tuple[Callable[[], nn.Module], Tensor, Mapping[str, Call]]] = {
    "flow": (lambda: flows.ready(flows.SMALL), flows.batch_of(flows.SMALL, 12), FLOW),
    "projector": (projectors.made, to_unit(projectors.images(12)), PROJECTOR),
    "rotated projector": (
        lambda: projectors.made(replace(projectors.TINY, basis="rotated")),
        to_unit(projectors.images(12)),
        {"align": aligned},
    ),
    "styles": (styles.made, styles.pictures(3), STYLES),
    "classifier": (digit_classifier, DIGITS, CLASSIFIER),
}
CASES = [(name, call) for name, (_, _, calls) in MADE.items() for call in calls]


def numbers(found: Any) -> Iterator[Tensor]:
    """All numbers of a result."""
    if isinstance(found, Tensor):
        yield found.detach().cpu().double()
    elif isinstance(found, int | float):
        yield torch.tensor(found, dtype=torch.float64)
    elif isinstance(found, list | tuple):
        for one in found:
            yield from numbers(one)
    elif isinstance(found, Mapping) or is_dataclass(found):
        yield from numbers(list((found if isinstance(found, Mapping) else vars(found)).values()))


@pytest.mark.parametrize(("model", "call"), CASES)
def test_a_call_gives_on_a_device_what_it_gives_on_the_cpu(model: str, call: str, gpu: StandIn) -> None:
    make, x, calls = MADE[model]
    with torch.no_grad():
        on_cpu = make()
        there = copy.deepcopy(on_cpu).to(gpu.device)
        expected = list(numbers(calls[call](on_cpu, x)))
        with gpu.recording() as log:
            found = list(numbers(calls[call](there, x.to(gpu.device))))
    assert log.kernels + len(log.to_host) > 0 and expected
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


BARE: dict[str, tuple[str, Call]] = {
    "encode_leading": ("flow", FLOW["encode_leading"]),
    "bits_per_dimension": ("flow", FLOW["bits_per_dimension"]),
    "align": ("rotated projector", lambda m, x: m.align(x)),
}


@pytest.mark.parametrize("call", BARE)
def test_calls_of_bare_charts_compute_in_full_precision(call: str) -> None:
    model, action = BARE[call]
    make, x, _ = MADE[model]
    made, seen = make(), list[bool]()
    for part in made.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(lambda *given: seen.append(convolutions_allowed()))
    with torch.no_grad():
        action(made, x)
    assert seen and not any(seen)


def test_times_end_when_the_device_has_done_its_work(gpu: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    model = flows.ready(flows.SMALL).to(gpu.device)
    multi_step, operator = model.multi_step, model.operator
    monkeypatch.setattr(model, "multi_step", lambda x, steps: multi_step(x, 1))
    monkeypatch.setattr(model, "operator", lambda steps: operator(1))
    with torch.no_grad(), gpu.recording() as log:
        evaluate.timing(model, batch=2, repeats=3)
    assert sum("whole" in event.where for event in log.waits + log.to_host) == 4 * (1 + 3)


def test_the_laws_are_asked_at_points_on_the_device(gpu: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set[str]()

    def asked(thing: object, *points: Any, **options: object) -> list[Report]:
        seen.update(str(x.device) for x in points if isinstance(x, Tensor))
        return []

    for name in ("check_linear", "check_adjoint", "check_penrose", "check_bijection", "check_space", "check_svd", "promises"):
        monkeypatch.setattr(evaluate, name, asked)
    evaluate.axioms(flows.ready(flows.SMALL).to(gpu.device), flows.batch_of(flows.SMALL, 2, torch.float32), steps=1)
    assert seen == {"gpu:0"}


def test_rows_on_a_device_are_read_and_written_as_those_of_the_cpu(gpu: StandIn) -> None:
    rows = flows.batch_of(flows.SMALL, 4).flatten(1)
    assert as_table(rows.to(gpu.device)).rows.equal(rows)
    names = [str(k) for k in range(16)]
    assert csv_text(names, rows.to(gpu.device)) == csv_text(names, rows)
    with StandIn(float64=False) as apple:
        assert as_table(rows.float().to(apple.device)).rows.equal(rows.float().double())
