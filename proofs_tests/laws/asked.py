"""What charts, spaces, cores and maps are asked on a device and on the CPU: by name, what `make test` asks and the rest."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from induced import HilbertSpace, InducedSpace, Linearizer, ProductSpace, Subspace, checks
from induced import operators as ops
from induced.bijections import Bijection, roundtrip
from induced.bijections.amplification import rounding
from induced.operators import LinearOperator, identity
from induced.operators.krylov import iterative_solve, truncated_eigenvalues, truncated_svd
from induced.operators.linalg import Inverse
from induced.operators.spectral import invariant_subspaces
from induced.subspaces import principal_components

Answer = Any
"""Tensors, numbers, operators, subspaces, and sequences of them."""


def gradients(f: nn.Module, x: Tensor) -> list[Tensor]:
    """Of |f(x)|^2, with respect to x and each parameter that it depends on."""
    x = x.clone().requires_grad_()
    wanted = [x, *(p for p in f.parameters() if p.requires_grad)]
    image = f(x)
    found = torch.autograd.grad(image.square().sum(), wanted, allow_unused=True)
    return [g for g in found if g is not None]


def holds_tensors(module: nn.Module) -> bool:
    """Whether a module has a device; what has none makes tensors on the CPU, as torch does."""
    return any(True for _ in (*module.parameters(), *module.buffers()))


def tensors(answer: Answer) -> list[Tensor]:
    """What an answer holds: an operator its matrix, a subspace its projector; Python's numbers are left out."""
    if isinstance(answer, Tensor):
        return [answer]
    if isinstance(answer, LinearOperator):
        return [answer.matrix()]
    if isinstance(answer, Subspace):
        return [answer.projector().matrix()]
    if isinstance(answer, list | tuple):
        return [tensor for part in answer for tensor in tensors(part)]
    return []


def _ok(reports: list[checks.Report]) -> list[bool]:
    return [report.ok for report in reports]


def _initialized(g: Bijection, x: Tensor) -> Answer:
    fresh = copy.deepcopy(g)
    fresh.initialize(x)
    return list(fresh.state_dict().values())


ChartQuestion = Callable[[Bijection, Tensor, Tensor], Answer]
CHART: dict[str, ChartQuestion] = {
    "g(x)": lambda g, x, z: g(x),
    "g^-1(z)": lambda g, x, z: g.inverse(z),
    "gradients": lambda g, x, z: gradients(g, x),
    "zero": lambda g, x, z: InducedSpace(g).zero(2, dtype=x.dtype, device=None if holds_tensors(g) else x.device),
}
CHART_TOO: dict[str, ChartQuestion] = {
    "log|det J|": lambda g, x, z: g.forward_and_log_abs_det(x),
    "log|det J| of the inverse": lambda g, x, z: g.inverse_and_log_abs_det(z),
    "initialize": lambda g, x, z: _initialized(g, x),
    "rounding": lambda g, x, z: (rounding(g, x), rounding(g.inv, z)),
    "roundtrip": lambda g, x, z: roundtrip(g, x).ok,
    "check_bijection": lambda g, x, z: _ok(checks.check_bijection(g, x)),
    "check_space": lambda g, x, z: _ok(checks.check_space(InducedSpace(g), x)),
}

SpaceQuestion = Callable[[HilbertSpace, Tensor, Tensor], Answer]
SPACE: dict[str, SpaceQuestion] = {
    "coords and point": lambda X, x, z: (X.coords(x), X.point(z)),
    "sums and multiples": lambda X, x, z: (X.add(x, x), X.sub(x, x), X.neg(x), X.scale(0.5, x), X.scale(z[:, 0], x)),
    "sample": lambda X, x, z: X.sample(
        2, torch.Generator().manual_seed(3), dtype=x.dtype, device=None if holds_tensors(X) else x.device
    ),
    "combine": lambda X, x, z: (X.combine((0.5, -0.5), (x, x)), X.combine(z[:2, 0], torch.stack([x, x])), X.mean(x)),
}
SPACE_TOO: dict[str, SpaceQuestion] = {
    "lengths": lambda X, x, z: (X.inner(x, x), X.norm(x), X.distance(x, X.neg(x)), X.gram(x)),
    "angle": lambda X, x, z: X.angle(x, X.neg(x)),
    "segment": lambda X, x, z: (X.segment(x, X.neg(x), 0.3), X.segment(x, X.neg(x), z[:, 0])),
    "geodesic": lambda X, x, z: X.geodesic(x, torch.zeros_like(x)),
    "metric": lambda X, x, z: X.metric(x),
    "orthonormalize": lambda X, x, z: X.orthonormalize(x),
    "roundings": lambda X, x, z: (X.roundings(x), X.point_roundings(x), X.zero_size(x)),
    "vectors": lambda X, x, z: ((2 * X(x) - X(x) / 3).point, X(x) @ X(x), X(x).norm()),
    "product": lambda X, x, z: (ProductSpace(X, X).coords(ProductSpace(X, X).join(x, x)), X.zero(dtype=x.dtype, device=x.device)),
    "principal components": lambda X, x, z: principal_components(X, x).variances,
    "subspaces": lambda X, x, z: _subspaces(X, x),
}


def _subspaces(X: HilbertSpace, x: Tensor) -> Answer:
    W = Subspace.span(X, x[:1])
    more = [W.complement(), W.sum(W), W.intersection(W)]
    return W, W.project(x), W.residual(x), W.distance_to(x), W.contains(x), W.angles(W), *more


CoreQuestion = Callable[[LinearOperator, Tensor, Tensor], Answer]
CORE: dict[str, CoreQuestion] = {
    "A z and A^T w": lambda A, z, w: (A(z), A.apply_adjoint(w), A.H(w)),
    "matrix": lambda A, z, w: A,
    "gradients": lambda A, z, w: gradients(A, z),
    "algebra": lambda A, z, w: (A + A, A * 2.5, A.H @ A),
    "svd": lambda A, z, w: _rebuilt(A),
    "pinv": lambda A, z, w: ops.pinv(A),
    "solve": lambda A, z, w: ops.solve(A, w),
}
CORE_TOO: dict[str, CoreQuestion] = {
    "pinv with a cut-off": lambda A, z, w: ops.pinv(A, 1e-3),
    "svd of rank 1": lambda A, z, w: ops.svd(A, 1)[1],
    "singular values": lambda A, z, w: ops.singular_values(A).values.sort().values,
    "rank and norms": lambda A, z, w: (ops.rank(A), ops.norm(A), ops.norm(A, "frobenius"), ops.norm(A, "nuclear")),
    "cond": lambda A, z, w: ops.cond(A),
    "kernel and image": lambda A, z, w: [Q.matrix() @ Q.matrix().mT for Q in (ops.kernel(A), ops.image(A))],
    "polar": lambda A, z, w: list(ops.polar(A)),
    "truncated svd": lambda A, z, w: truncated_svd(A, 1)[0][1],
    "randomized svd": lambda A, z, w: truncated_svd(A, 1, method="randomized")[0][1],
    "iterative solve": lambda A, z, w: iterative_solve(A, w)[0],
}
SQUARE: dict[str, CoreQuestion] = {
    "exp": lambda A, z, w: ops.exp(A / 4),
    "invariants": lambda A, z, w: (ops.trace(A), ops.det(A), ops.slogdet(A)),
    "resolvent": lambda A, z, w: ops.resolvent(A, 40.5),
}
SQUARE_TOO: dict[str, CoreQuestion] = {
    "inverse": lambda A, z, w: (ops.inverse(A), Inverse(A)(z)),
    "powers": lambda A, z, w: (A**3, ops.power(A, 0)),
    "power -1": lambda A, z, w: ops.power(A, -1),
    "root": lambda A, z, w: ops.sqrt(A @ A.H + identity(A.shape[0], A.matrix())),
    "real power": lambda A, z, w: ops.power(A @ A.H + identity(A.shape[0], A.matrix()), 0.3),
    "log": lambda A, z, w: ops.log(ops.exp(A * 0.1)),
    "exp at a time": lambda A, z, w: ops.exp(A / 4, torch.tensor(0.3, dtype=z.dtype, device=z.device)),
    "function": lambda A, z, w: ops.function(A / 4, torch.sin),
    "exp_multiply": lambda A, z, w: ops.exp_multiply(A / 4, z)[0],
    "eigenvalues": lambda A, z, w: ops.eigenvalues(A).abs().sort().values,
    "invariant subspaces": lambda A, z, w: [len(invariant_subspaces(A))],
    "truncated eigenvalues": lambda A, z, w: truncated_eigenvalues(A, 1)[0].abs(),
}

MapQuestion = Callable[[Linearizer, Tensor, Tensor], Answer]
MAP: dict[str, MapQuestion] = {
    "f(x)": lambda f, x, y: f(x),
    "adjoint and pseudoinverse": lambda f, x, y: (f.H(y), f.pinv()(y), f.solve(y)),
}
MAP_TOO: dict[str, MapQuestion] = {
    "svd": lambda f, x, y: (f.svd().reconstruct()(x), f.svd(1).left().abs(), f.svd().truncate(1).core),
    "polar": lambda f, x, y: f.polar()[1](x),
    "kernel and image": lambda f, x, y: (f.kernel().project(x), f.image().project(y)),
    "numbers": lambda f, x, y: (f.norm(), f.rank(), f.cond()),
    "scipy": lambda f, x, y: f.to_scipy() @ np.ones(f.core.shape[1]),
    "laws": lambda f, x, y: _ok([*checks.check_linear(f, x), *checks.check_adjoint(f, x, y)]),
    "laws of the pseudoinverse": lambda f, x, y: _ok([*checks.check_penrose(f, x, y), *checks.check_svd(f)]),
    "inverse": lambda f, x, y: f.inv(y),
    "functions": lambda f, x, y: (f.exp(0.1)(x), f.resolvent(40.5)(x), f.function(torch.cos)(x)),
    "root and logarithm": lambda f, x, y: (f.sqrt()(x), f.log()(x), (f**0.3)(x)),
    "measures": lambda f, x, y: (f.trace(), f.det(), f.abs_det()),
    "spectrum": lambda f, x, y: f.spectrum().values.abs().sort().values,
    "algebra": lambda f, x, y: ((f**2)(x), (2 * f + f - f / 3)(x)),
    "laws of powers": lambda f, x, y: _ok([*checks.check_powers(f, x), *checks.check_group(f, x)]),
}


OF_ONE_SPACE = {
    *("inverse", "functions", "root and logarithm", "measures", "spectrum", "algebra", "laws of powers"),
}
"""Questions to an invertible map of one space."""


def _rebuilt(A: LinearOperator) -> Answer:
    U, values, V = ops.svd(A)
    return values, U * values @ V.mT
