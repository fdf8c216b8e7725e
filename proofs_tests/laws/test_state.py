"""What is shared is one module with one name, whatever torch does with it."""

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.func import functional_call

from induced import EuclideanSpace, InducedSpace, Linearizer, ProductSpace, Subspace
from induced.bijections import (
    AffineCoupling,
    Bijection,
    Composition,
    ConditionalBijection,
    LatticeCoupling,
    Linear,
    Log,
    Sinh,
    real_nvp,
)
from induced.bijections.networks import MLP
from induced.operators import BlockDiagonal, Convolution, Dense, Diagonal, Householder, LinearOperator, Permutation
from induced.operators.base import Product, Sum
from induced.operators.linalg import Inverse
from induced.serialization import load, save
from proofs_tests.registry import agree, shaken


# ------------------------------------------------------------------------------------------------------- what is shared
def matrix(rows: int = 4) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, 4) / 4 + torch.eye(rows, 4))


def chart() -> Bijection:
    found = shaken(real_nvp(4, 2, 6), 0.1)
    assert isinstance(found, Bijection)
    return found


def conditional() -> ConditionalBijection:
    found = shaken(real_nvp(4, 2, 6, context=1), 0.1)
    assert isinstance(found, ConditionalBijection)
    return found


def one_space() -> nn.Module:
    return Linearizer(matrix(), InducedSpace(chart()))


def two_spaces_of_one_chart() -> nn.Module:
    g = chart()
    return Linearizer(matrix(), InducedSpace(g), InducedSpace(g))


def two_contexts() -> nn.Module:
    C = conditional()
    return Linearizer(matrix(), InducedSpace(C.at(0.0)), InducedSpace(C.at(1.0)))


def one_context_twice() -> nn.Module:
    C = conditional()
    return Linearizer(matrix(), InducedSpace(C.at(0.5)), InducedSpace(C.at(0.5)))


def a_chart_within_another() -> nn.Module:
    g = chart()
    return Linearizer(matrix(), InducedSpace(g), InducedSpace(Sinh((4,)) @ g))


def a_space_and_its_square() -> nn.Module:
    X = InducedSpace(chart())
    return Linearizer(matrix(8), X, ProductSpace(X, X))


def a_factor_twice() -> nn.Module:
    A = Householder(nn.Parameter(torch.randn(2, 4)))
    return Linearizer(A @ Diagonal(torch.arange(1.0, 5.0)) @ A, EuclideanSpace(4))


def an_operator_within_an_expression() -> nn.Module:
    A, B = Householder(nn.Parameter(torch.randn(2, 4))), Convolution(nn.Parameter(torch.randn(1, 1, 3)), (1, 4))
    return Linearizer(A @ B @ A.H + 2 * (B @ B.H) + A, EuclideanSpace(4))


def a_map_and_its_inverse() -> nn.Module:
    X = InducedSpace(chart())
    A, B = Dense(matrix()), Convolution(nn.Parameter(torch.randn(1, 1, 3)), (1, 4))
    return Linearizer(Product(Inverse(A), B, A), X)


def a_layer_twice() -> nn.Module:
    layer = AffineCoupling((4,), MLP(2, 4, 6))
    return shaken(Composition(layer, Linear(Permutation([2, 3, 0, 1])), layer), 0.1)


def a_conditioner_with_a_layer_twice() -> nn.Module:
    layer, act = nn.Linear(2, 2), nn.Tanh()
    return LatticeCoupling((4,), nn.Sequential(layer, act, nn.Linear(2, 2), act, layer))


def a_map_of_a_subspace() -> nn.Module:
    W = Subspace(InducedSpace(chart()), torch.linalg.qr(torch.randn(4, 4))[0])
    return Linearizer(matrix(), W)


def a_subspace_in_its_space() -> nn.Module:
    return Linearizer.inclusion(Subspace(InducedSpace(chart()), torch.linalg.qr(torch.randn(4, 4))[0]))


CASES = [
    one_space,
    two_spaces_of_one_chart,
    two_contexts,
    one_context_twice,
    a_chart_within_another,
    a_space_and_its_square,
    a_factor_twice,
    an_operator_within_an_expression,
    a_map_and_its_inverse,
    a_layer_twice,
    a_conditioner_with_a_layer_twice,
    a_map_of_a_subspace,
    a_subspace_in_its_space,
]
every_case = pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
Build = Callable[[], nn.Module]


class Holder(nn.Module):
    """Somebody's model around ours."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.f(x)
        return result


def points() -> Tensor:
    return torch.randn(3, 4) / 2


def moved(f: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() + torch.randn_like(p) / 20 for name, p in f.named_parameters()}


def with_values(f: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    """A copy that holds these values: the oracle of functional_call."""
    other = copy.deepcopy(f)
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(values[name])
    return other


# ------------------------------------------------------------------------------------------------------------- one name
@every_case
def test_each_module_and_tensor_has_one_name(build: Build) -> None:
    for f in (build(), Holder(build())):
        listed = [module for _, module in f.named_modules(remove_duplicate=False)]
        assert len(listed) == len(set(map(id, listed)))
        names = [name for name, _ in f.named_parameters(remove_duplicate=False)]
        persistent = [name for name in f.state_dict() if name not in names]
        assert names == [name for name, _ in f.named_parameters()] and set(names) <= set(f.state_dict())
        assert set(persistent) <= {name for name, _ in f.named_buffers()}
        assert safetensors.torch.load(safetensors.torch.save(f.state_dict())).keys() == f.state_dict().keys()


def test_names_are_those_of_the_first_way() -> None:
    assert set(one_space().state_dict()) == {"core.A", *(f"domain.{name}" for name in InducedSpace(chart()).state_dict())}
    f = a_chart_within_another()
    assert not any(name.startswith("codomain") for name in f.state_dict())
    g = Linearizer(matrix(), InducedSpace(chart()), InducedSpace(chart()))
    own = {name for name in g.state_dict() if name.startswith("codomain.chart.")}
    assert len(own) == len(InducedSpace(chart()).state_dict())


@every_case
def test_functional_call_is_a_copy_with_these_values_and_leaves_the_map_as_it_was(build: Build) -> None:
    f, x = build(), points()
    for module in (f, Holder(f)):
        before, kept = f(x), list(module.parameters())
        values = moved(module)
        wanted = with_values(module, values)(x)
        assert torch.equal(functional_call(module, values, (x,), strict=False), wanted)
        assert not torch.equal(wanted, before)
        assert all(p is q for p, q in zip(module.parameters(), kept, strict=True)) and torch.equal(f(x), before)
        # an old checkpoint may give both names
        functional_call(module, module.state_dict(), (x,))
        assert all(p is q for p, q in zip(module.parameters(), kept, strict=True))


def test_torch_alone_leaves_the_arguments_of_a_call_in_a_layer_of_two_names() -> None:
    layer = nn.Linear(2, 2)
    f, x = nn.Sequential(layer, layer), torch.randn(3, 2)
    before = f(x)
    functional_call(f, {name: torch.zeros_like(p) for name, p in f.named_parameters()}, (x,))
    assert not torch.equal(f(x), before)


@pytest.mark.parametrize("build", [one_space, two_contexts, a_factor_twice, a_map_and_its_inverse])
def test_gradients_and_maps_over_parameters_are_those_of_the_copies(build: Build) -> None:
    f, x = build(), points()
    sets = [moved(f) for _ in range(3)]

    def loss(values: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(f, values, (x,)).square().sum()
        return result

    found = torch.func.vmap(torch.func.grad(loss))({name: torch.stack([s[name] for s in sets]) for name in sets[0]})
    for k, values in enumerate(sets):
        other = with_values(f, values)
        other(x).square().sum().backward()
        for name, p in other.named_parameters():
            assert p.grad is not None
            torch.testing.assert_close(found[name][k], p.grad, rtol=1e-3, atol=1e-4)
    assert all(p.requires_grad and type(p) is nn.Parameter for p in f.parameters())


@every_case
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_is_all_of_the_state(build: Build, assign: bool) -> None:
    x = points()
    f, other = build(), build()
    for one, two in ((f, other), (Holder(f), Holder(build()))):
        result = two.load_state_dict(one.state_dict(), strict=True, assign=assign)
        assert not result.missing_keys and not result.unexpected_keys
        assert torch.equal(one(x), two(x))
        assert len(list(two.parameters())) == len(list(one.parameters()))
        names = list(one.state_dict())
        assert two.load_state_dict({}, strict=False).missing_keys == names
        stray = {**one.state_dict(), names[0] + "2": x}
        assert two.load_state_dict(stray, strict=False).unexpected_keys == [names[0] + "2"]


@every_case
def test_copies_and_moves_keep_what_is_shared(build: Build) -> None:
    f, x = build(), points()
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f)), copy.deepcopy(Holder(f)).f):
        assert torch.equal(other(x), f(x)) and list(other.state_dict()) == list(f.state_dict())
    wide = copy.deepcopy(f).double()
    assert all(t.dtype == torch.float64 for t in (*wide.parameters(), *wide.buffers()) if t.is_floating_point())
    assert wide(x.double()).dtype == torch.float64
    back = wide.float()
    agree(back(x).detach(), f(x).detach(), 100)


@every_case
def test_apply_meets_each_module_once_and_what_it_holds_first(build: Build) -> None:
    f, met = Holder(build()), list[nn.Module]()
    f.apply(met.append)
    assert len(met) == len(set(map(id, met))) and set(map(id, met)) == set(map(id, f.modules()))
    assert all(met.index(child) < met.index(module) for module in met for child in module._modules.values() if child is not None)


@pytest.mark.parametrize("build", [two_contexts, a_space_and_its_square, an_operator_within_an_expression])
def test_an_exported_graph_holds_each_parameter_once(build: Build) -> None:
    f, x = build(), points()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.export.export(f, (x,), strict=False)
    assert set(program.state_dict) == set(f.state_dict())
    agree(program.module()(x).detach(), f(x).detach(), 100)


def test_a_compiled_call_with_other_parameters_is_the_eager_one() -> None:
    f, x = a_factor_twice(), points()
    values = moved(f)
    torch.compiler.reset()
    compiled = torch.compile(lambda values, x: functional_call(f, values, (x,)), fullgraph=True, backend="eager")
    agree(compiled(values, x), functional_call(f, values, (x,)), 10)
    assert all(type(p) is nn.Parameter for p in f.parameters())


def test_a_conditioner_of_tied_layers_stays_as_it_is_and_trains() -> None:
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = layer.weight  # one tensor in two modules
    conditioner = nn.Sequential(layer, nn.Tanh(), other, nn.Tanh(), layer)
    g, x = LatticeCoupling((4,), conditioner), torch.randn(5, 4)
    kept = list(g.parameters())
    g(x).square().sum().backward()
    assert all(p is q and p.dtype == torch.float32 for p, q in zip(g.parameters(), kept, strict=True))
    # a lattice coupling passes gradients as if it did not round: those of a plain shift of what it keeps
    wide = copy.deepcopy(conditioner).double()
    a, b = (half.detach() for half in (g(x)[:, :2].double(), g(x)[:, 2:].double()))
    shift = wide(a)
    ((shift + (b - shift).detach()).square().sum()).backward()
    for p, q in zip(conditioner.parameters(), wide.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]


def test_a_saved_sequence_has_its_layers_as_often_as_they_were_used(tmp_path: object) -> None:
    g, x = a_conditioner_with_a_layer_twice(), points()
    again = load(save(g, str(tmp_path)))
    assert torch.equal(again(x), g(x)) and list(again.state_dict()) == list(g.state_dict())


# ------------------------------------------------------------------------------------------------------------- replaced
@pytest.mark.parametrize("kind", [Sum, Product, BlockDiagonal])
def test_a_submodule_that_is_replaced_is_used(kind: Callable[..., LinearOperator]) -> None:
    A, B, C = (Diagonal(torch.rand(3) + 1) for _ in range(3))
    made, wanted = kind(A, B, A), kind(C, B, A)
    setattr(made, "0", C)
    assert torch.equal(made.matrix(), wanted.matrix()) and torch.equal(made.H.matrix(), wanted.H.matrix())
    assert torch.equal(
        torch.func.functional_call(made, {"0.d": A.d}, (torch.ones(made.shape[1]),)), kind(A, B, A)(torch.ones(made.shape[1]))
    )


def test_a_map_with_another_core_or_space_is_that_of_them() -> None:
    X, Y, x = InducedSpace(Sinh((4,))), InducedSpace(chart()), points()
    f, A, B = Linearizer(matrix(), X), Dense(matrix()), Dense(matrix())
    f.core = A  # type: ignore[misc]
    assert torch.equal(f(x), Linearizer(A, X)(x)) and torch.equal(f.H(x), Linearizer(A, X).H(x))
    f.domain = Y  # type: ignore[misc]
    assert f.codomain is X and torch.equal(f(x), Linearizer(A, Y, X)(x))
    f.codomain, f.core = Y, B  # type: ignore[misc]
    assert torch.equal((f @ f)(x), (Linearizer(B, Y) @ Linearizer(B, Y))(x))
    assert set(f.state_dict()) == set(Linearizer(B, Y).state_dict())


def test_a_space_with_another_chart_is_the_space_of_that_chart() -> None:
    X, g, x = InducedSpace(Log((4,))), chart(), points()
    f = Linearizer(matrix(), X)
    X.chart = g
    assert InducedSpace(g) == X and InducedSpace(X.chart) == f.codomain and hash(X) == hash(InducedSpace(g))
    assert torch.equal(f(x), Linearizer(f.core, InducedSpace(g))(x))


def test_a_space_made_of_a_space_with_another_chart_is_that_of_the_new_one() -> None:
    X, old, Q = InducedSpace(Log((4,))), InducedSpace(Log((4,))), Dense(torch.eye(4)[:, :2])
    old.chart = X.chart
    for make in (lambda S: ProductSpace(S, EuclideanSpace(1)), lambda S: Subspace(S, Q), lambda S: Subspace(ProductSpace(S), Q)):
        P = make(X)
        assert P == make(old) and hash(P) == hash(make(old))
        X.chart = chart()
        assert P == make(X) != make(old) and hash(P) == hash(make(X))
        X.chart = old.chart
    # a subspace with another basis or space is that of them
    W, V = Subspace(X, Q), Subspace(X, torch.eye(4)[:, 1:])
    W.frame = V.frame
    x = points().exp()
    assert W == Subspace(X, V.frame) and W.dim == 3 and torch.equal(W.coords(x), V.coords(x))
    W.space = EuclideanSpace(4)
    assert W == Subspace(EuclideanSpace(4), V.frame) != V


def test_a_state_with_two_values_for_one_tensor_is_refused() -> None:
    X, core, x = InducedSpace(chart()), matrix(), points()
    apart = Linearizer(core, copy.deepcopy(X), copy.deepcopy(X))
    f, state = Linearizer(core, X), apart.state_dict()
    f.load_state_dict(state)  # as plain torch would have saved f
    assert torch.equal(f(x), apart(x))
    with torch.no_grad():
        next(apart.codomain.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match=r"domain\S+weight and codomain\S+weight are one tensor here, but the state has other"):
        f.load_state_dict(state)
    # the counterexample: torch takes the last
    tied = nn.ModuleDict({"a": (a := nn.Linear(1, 1)), "b": a})
    tied.load_state_dict({**tied.state_dict(), "b.weight": torch.ones(1, 1)})
    assert a.weight.item() == 1.0


def test_equal_spaces_of_a_map_or_product_are_one_module() -> None:
    C = conditional()
    X, Y = InducedSpace(C.at(0.5)), InducedSpace(C.at(0.5))
    f, P = Linearizer(matrix(), X, Y), ProductSpace(X, EuclideanSpace(1), Y)
    assert f.codomain is f.domain and P.factors[0] is P.factors[2]
    assert P.double().coords(torch.randn(2, 9).double()).dtype == torch.float64


# ------------------------------------------------------------------------------------------------------ a kept inverse
def test_the_cases_are_all_of_this_file() -> None:
    made = {f for name, f in globals().items() if inspect.isfunction(f) and not name.startswith("test_")}
    built = {f for f in made if f.__annotations__.get("return") is nn.Module and not inspect.signature(f).parameters}
    assert built == set(CASES)
