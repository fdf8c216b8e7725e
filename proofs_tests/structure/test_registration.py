"""Every public class of charts, operators and spaces is under the laws: enrolled in the registry, or excused by its reason."""

import inspect
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import induced.bijections
import induced.bijections.networks
import induced.operators
import induced.propagators
import induced.spaces
from proofs_tests.registry import CHARTS, CORES, SPACES

PACKAGES = (induced.bijections, induced.bijections.networks, induced.operators, induced.propagators, induced.spaces)

CONDITIONER = "a network with no law of its own; every coupling of the registry holds one"
AT = "no chart itself: its charts g.at(c) are enrolled"
EXCUSED = {
    "MLP": CONDITIONER,
    "ConvNet": CONDITIONER,
    "UNet": CONDITIONER,
    "ConditionalComposition": AT,
    "ConditionalDirectSum": AT,
    "LowRankFamily": "a family of operators: laws/test_propagators.py; Stepwise of a family is a core",
    "SharedBasisFamily": "a family of operators: laws/test_propagators.py; Stepwise of a family is a core",
    "Vector": "a point with its space: laws/test_vectors.py",
}


def public() -> Iterator[tuple[str, type]]:
    for package in PACKAGES:
        for name in package.__all__:
            if inspect.isclass(getattr(package, name)):
                yield name, getattr(package, name)


@pytest.fixture(scope="module")
def enrolled() -> set[type]:
    """The classes of the registry's objects, of the modules inside them, and of what these descend from."""
    objects: list[nn.Module] = [case.make() for case in CHARTS]
    objects += [case.make(case.matrix()) for case in CORES] + [case.make(torch.float64) for case in SPACES]
    classes = {type(module) for obj in objects for module in obj.modules()}
    return {base for cls in classes for base in cls.__mro__}


@pytest.mark.fast
def test_every_public_class_is_enrolled_or_excused(enrolled: set[type]) -> None:
    missing = sorted(name for name, cls in public() if cls not in enrolled and name not in EXCUSED)
    assert missing == [], "enrol these in proofs_tests/registry.py"


def test_no_excuse_outlives_its_class() -> None:
    assert set(EXCUSED) <= {name for name, _ in public()}
