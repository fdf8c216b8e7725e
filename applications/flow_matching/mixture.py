"""A density of clusters as a chart: a Gaussian mixture, fitted by expectation-maximisation, and its map to N(0, I)."""

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from induced.bijections import Bijection
from induced.errors import DomainError, ShapeError
from induced.serialization import register

STEPS, NEAR, CLOSE, TOGETHER = 64, 1e-4, 1e-8, 128
"""Most steps of a root, each of Newton or a halving; relative lengths of steps that end them; points at a time."""
SEEN, LEAST = 14.0, 1e-290
"""Components of less weight than exp(-this - t^2 / 2) of the largest wait; the least probability that is not a logarithm."""
WIDE = 1.8
"""How many times as wide as a component is the second one about the same mean."""
UNUSED = -1e4
"""The logarithm of no weight, which half precision holds: that of a component which nothing is fitted to."""
HALF_LOG_2PI = math.log(2 * math.pi) / 2


@final
class GaussianMixture(Bijection):
    """z_i = Phi^-1(F_i(c_i | c_1 .. c_{i-1})), F_i the conditional distributions of a mixture of `components` Gaussians on R^n.

    This is the Knothe-Rosenblatt map of the mixture: c is distributed as the mixture exactly where z is N(0, I). A chart made of
    couplings maps one Gaussian to separate clusters by thin bridges between them, whose points are drawn; here there are none.
    log|det J| = log p(c) - log N(z; 0, I). Forward it is closed; the inverse finds n roots one after the other, each in a bracket
    that the components give: between their own c with Phi(u_k) = Phi(z). All is computed in float64. A new one without tails
    is the identity.
    It has derivatives to the second order, wrong ones beyond. Of log|det J| rounding leaves 1e-16 z^2: nothing where |z| is 1e8.

    Arguments:
        n: coordinates.
        components: how many; each has a weight, a mean and a full covariance (P^T P)^-1, P lower triangular.
        tail: share of each component's weight that a second one about its mean has, 1.8 times as wide in every direction. It
            reaches points between components, where the map would be so flat that a float32 z cannot tell c.

    Raises:
        DomainError: there is no component, or `tail` is not in [0, 1).

    Law:
        `g.inverse(g(c)) == c`, and p of one component is its Gaussian (applications/flow_matching/test_mixture.py)
    """

    classes: Tensor

    def __init__(self, n: int, components: int, tail: float = 0.0) -> None:
        super().__init__((n,))
        if components < 1 or not 0 <= tail < 1:
            raise DomainError(f"a mixture has at least one component, and a tail in [0, 1): got {components} and {tail}")
        self.components, self.tail = components, tail
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.zeros(components, n))
        self.log_diagonal = nn.Parameter(torch.zeros(components, n))
        self.lower = nn.Parameter(torch.zeros(components, n, n))
        self.register_buffer("classes", torch.zeros(components, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_and_log_abs_det(x)[0]

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_weight, means, P, log_diagonal = self._values()
        u = self._both(torch.einsum("kij,...kj->...ki", P, x.double().unsqueeze(-2) - means), -2)
        each = log_diagonal - u.square() / 2 - HALF_LOG_2PI
        joint = log_weight[:, None] + torch.cat([torch.zeros_like(each[..., :1]), each.cumsum(-1)], -1)
        z = _quantile(torch.log_softmax(joint[..., :-1], -2), u)
        log_det = torch.logsumexp(joint[..., -1], -1) + (z.square() / 2 + HALF_LOG_2PI).sum(-1)
        return z.to(x.dtype), log_det.to(x.dtype)

    def roundoff(self, x: Tensor) -> Tensor:
        """Of float64, which it computes in: that of logarithms too, of k weights, of their sum and of n densities."""
        z = super().roundoff(x)
        added = 2 * math.log(2 * self.components) + self.shape[0] / 2
        return z + added if x.dtype == torch.float64 else z

    def inverse(self, z: Tensor) -> Tensor:
        log_weight, means, P, log_diagonal = self._values()
        aim, joint, gone = z.double(), log_weight.expand(*z.shape[:-1], -1), list[Tensor]()
        for i in range(self.shape[0]):
            # u_k = a_k + d_k c_i, a_k known from the coordinates before
            d, a = log_diagonal[:, i].exp(), -P[:, i, i] * means[:, i]
            if gone:
                a = a + torch.einsum("kj,...kj->...k", P[:, i, :i], torch.stack(gone, -1).unsqueeze(-2) - means[:, :i])
            a = self._both(a, -1)
            log_w, t = torch.log_softmax(joint, -1), aim[..., i]
            c = _root(log_w.detach(), a.detach(), d.detach(), t.detach())
            c = _carrying(c, log_w, a, d, t)
            u = a + d * c[..., None]
            joint = joint + log_diagonal[:, i] - u.square() / 2
            gone.append(c)
        return torch.stack(gone, -1).to(z.dtype)

    @torch.no_grad()
    def fit(self, c: Tensor, labels: Tensor | None = None, *, floor: float = 0.1, rounds: int = 40, seed: int = 0) -> None:
        """Expectation-maximisation from a k-means++ start.

        A fit within classes is quicker, by their number. Components that nothing is fitted to are the first again, unused.

        Arguments:
            c: points (N, n).
            labels: classes (N,); each gets as many components as any other, those left over spread over the first, but one at
                least and no more than its points can carry: one for each 2 n. Component k serves `classes[k]`. A negative number
                is no class that `of_class` could draw.
            floor: least standard deviation of a component, above 0, in those of the coordinates; 1 where those are constant.
            rounds: of expectation and maximisation.
            seed: of the start.

        Raises:
            ShapeError: points are not (N, n), labels not (N,), there are fewer than two points, or more classes than components.
            DomainError: a point is not finite, or `floor` not above 0.
        """
        if c.dim() != 2 or c.shape[1:] != self.shape:
            raise ShapeError(
                f"a mixture in {self.shape[0]} coordinates is fitted to points (N, {self.shape[0]}), got {tuple(c.shape)}"
            )
        if labels is not None and labels.shape != (len(c),):
            raise ShapeError(f"{len(c)} points have labels ({len(c)},), got {tuple(labels.shape)}")
        if not 0 < floor < math.inf:
            raise DomainError(f"the least standard deviation of a component is a finite number above 0, got floor {floor}")
        if bad := int((~c.isfinite().all(1)).sum()):
            raise DomainError(
                f"a mixture is fitted to finite points: {bad} of {len(c)} have coordinates that are NaN or infinite"
            )
        x, generator = c.detach().cpu().double(), torch.Generator().manual_seed(seed)
        found = torch.zeros(len(x), dtype=torch.long) if labels is None else labels.cpu()
        kinds = sorted(set(found.tolist()))
        if len(x) < 2 or len(kinds) > self.components:
            raise ShapeError(
                f"a mixture is fitted to 2 points or more, of no more classes than its {self.components} components: "
                f"got {len(x)} points of {len(kinds)} classes"
            )
        sd, mean = torch.std_mean(x, 0)
        sd = torch.where(sd > 0, sd, 1.0)
        x, parts = (x - mean) / sd, list[tuple[Tensor, Tensor, Tensor]]()
        shares = [self.components // len(kinds) + (k < self.components % len(kinds)) for k in range(len(kinds))]
        for kind, share in zip(kinds, shares, strict=True):
            part = x[found == kind]
            weights, means, P = _maximised(part, max(1, min(share, len(part) // (2 * x.shape[1]))), floor, rounds, generator)
            parts.append((weights * (len(part) / len(x)), means, P))
        weights, means, P = (torch.cat(values) for values in zip(*parts, strict=True))
        P = P / sd  # back to the units of c
        counts = torch.tensor([len(weights) for weights, _, _ in parts])
        served = torch.tensor(kinds).clamp_min(-1).repeat_interleave(counts)
        log_diagonal, K = P.diagonal(dim1=-2, dim2=-1).log(), len(weights)
        for place, values, first in (
            (self.logits, weights.log(), UNUSED),
            (self.means, mean + sd * means, None),
            (self.log_diagonal, log_diagonal, None),
            (self.lower, P.tril(-1), None),
            (self.classes, served, -1),
        ):
            place[:K] = values.to(place)
            place[K:] = place[0].clone() if first is None else first  # far out a Gaussian of its own would have all the weight

    def of_class(self, kind: int) -> "GaussianMixture":
        """The map of the components of one class alone: N(0, I) to its points.

        Raises:
            DomainError: no component serves it.
        """
        chosen = self.classes == kind
        if kind < 0 or not bool(chosen.any()):
            there = ", ".join(map(str, sorted(set(self.classes.tolist()) - {-1})))
            raise DomainError(f"no component serves the class {kind}; there {'are ' + there if there else 'is none'}")
        part = GaussianMixture(self.shape[0], int(chosen.sum()), self.tail).to(self.logits)
        with torch.no_grad():
            for name, value in part.named_parameters():
                value.copy_(getattr(self, name)[chosen])
        part.classes.fill_(kind)
        return part

    def _values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In float64 the log weights, those of tails last; means (K, n) and P (K, n, n); the logarithms of all diagonals of P."""
        log_weight, log_diagonal = self.logits.double().log_softmax(0), self.log_diagonal.double()
        P = self.lower.double().tril(-1) + torch.diag_embed(log_diagonal.exp())
        if self.tail:
            log_weight = torch.cat([log_weight + math.log1p(-self.tail), log_weight + math.log(self.tail)])
            log_diagonal = torch.cat([log_diagonal, log_diagonal - math.log(WIDE)])
        return log_weight, self.means.double(), P, log_diagonal

    def _both(self, u: Tensor, axis: int) -> Tensor:
        """u = P (c - m) of the components, or what makes it, and after them that of the tails."""
        return torch.cat([u, u / WIDE], axis) if self.tail else u


register(
    GaussianMixture,
    describe=lambda g: {"n": g.shape[0], "components": g.components, "tail": g.tail},
    name="flow_matching.GaussianMixture",
)


def _quantile(log_w: Tensor, u: Tensor) -> Tensor:
    """Phi^-1(sum_k w_k Phi(u_k)), k the second last axis, from the smaller of the two tails."""
    below = torch.logsumexp(log_w + torch.special.log_ndtr(u), -2)
    above = torch.logsumexp(log_w + torch.special.log_ndtr(-u), -2)
    z = _normal_quantile(torch.minimum(below, above).clamp_max(-math.log(2)))
    return torch.where(below < above, z, -z)


def _normal_quantile(log_p: Tensor) -> Tensor:
    """Phi^-1(p) of log p <= -log 2; steps of Newton on log Phi, the last two of length 0, carry the first two derivatives."""
    known = log_p.detach()
    far = -(-2 * known - (4 * math.pi * -known).log()).clamp_min(1.0).sqrt()
    z = torch.where(known > -600, torch.special.ndtri(known.clamp_min(-600).exp()), far)
    for _ in range(2):
        z = z - (torch.special.log_ndtr(z) - known) * _mills(z)
    ratio = _mills(z)
    for _ in range(2):
        z = z - (torch.special.log_ndtr(z) - log_p) * ratio
    return z


def _mills(z: Tensor) -> Tensor:
    """Phi(z) / phi(z)."""
    ratio: Tensor = math.sqrt(math.pi / 2) * torch.special.erfcx(z / -math.sqrt(2))
    return ratio


def _rate(logs: Tensor, u: Tensor, d: Tensor) -> Tensor:
    """dlog p/dc of p = sum_k exp(logs_k) = sum_k w_k Phi(u_k), du_k/dc = d_k; in differences of squares digits would drown."""
    return (torch.softmax(logs, -1) * d / _mills(u)).sum(-1)


def _root(log_w: Tensor, a: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """The c with Phi^-1(sum_k w_k Phi(a_k + d_k c)) = t: nearly, by the components of weight, then by all."""
    batch, K = t.shape, log_w.shape[-1]
    log_w, a, d = (x.expand(*batch, K).reshape(-1, K) for x in (log_w, a, d))
    t = t.reshape(-1)
    if not len(t):
        return t.reshape(batch)
    least = log_w.amax(-1, keepdim=True) - SEEN - t[:, None].square() / 2
    count, start = (log_w > least).sum(-1).clamp_min(1), torch.empty_like(t)  # one where all is NaN
    for part in torch.split(count.argsort(), TOGETHER):  # those that have as many left together
        weights, kept = log_w[part].topk(int(count[part].amax()), -1)
        few = weights, a[part].gather(-1, kept), d[part].gather(-1, kept)
        w, at = weights.exp(), (t[part, None] - few[1]) / few[2]
        start[part] = _newton(*few, t[part], (w * at).sum(-1) / w.sum(-1), NEAR)
    return _newton(log_w, a, d, t, start, CLOSE).reshape(batch)


def _carrying(c: Tensor, log_w: Tensor, a: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """The root c, with its first two derivatives: two steps of Newton on log of the tail of t, of length 0."""
    tangents = (unpack_dual(x).tangent for x in (log_w, a, d, t))  # type: ignore[no-untyped-call]
    if not torch.is_grad_enabled() and all(tangent is None for tangent in tangents):
        return c  # nothing asks for them, and they are most of the time
    side = torch.where(t > 0, -1.0, 1.0).to(t)
    aim, rate = torch.special.log_ndtr(side * t), None
    for _ in range(2):
        u = side[..., None] * (a + d * c[..., None])
        logs = log_w + torch.special.log_ndtr(u)
        rate = side * _rate(logs.detach(), u.detach(), d.detach()) if rate is None else rate
        gap = torch.logsumexp(logs, -1) - aim
        c = c - (gap - gap.detach()) / rate
    return c


def _newton(log_w: Tensor, a: Tensor, d: Tensor, t: Tensor, start: Tensor, close: float) -> Tensor:
    """The roots (k,) of `_root`, by Newton within a bracket, which halves where that would leave it."""
    w, at, side = log_w.exp(), (t[:, None] - a) / d, torch.where(t > 0, -1.0, 1.0).to(t)
    low, high = at.amin(-1), at.amax(-1)
    c = torch.minimum(torch.maximum(start, low), high)
    found, left = c.clone(), torch.arange(len(t), device=t.device)
    for _ in range(STEPS):
        u = a + d * c[:, None]
        # the tail on the side of t; torch's ndtr loses both
        p = (w * torch.erfc(u * (side / -math.sqrt(2))[:, None])).sum(-1) / 2
        if bool((p > LEAST).all()):
            value = side * torch.special.ndtri(p)
            slope = (w * d * (-u.square() / 2).exp()).sum(-1) * (value.square() / 2).exp()
        else:
            value = _quantile(log_w[..., None], u[..., None])[..., 0]
            outward = u * side[:, None]
            slope = _mills(side * value) * _rate(log_w + torch.special.log_ndtr(outward), outward, d)
        low, high = torch.where(value < t, c, low), torch.where(value < t, high, c)
        step = c - (value - t) / slope
        near = close * (1 + c.abs())  # where one component has all, the root is an end of the bracket, and rounds to either side
        inside = (step >= low - near) & (step <= high + near)
        new = torch.where(inside, torch.minimum(torch.maximum(step, low), high), (low + high) / 2)
        far = (new - c).abs() > near
        found[left] = c = new
        if not bool(far.any()):
            break
        left, c, low, high, t, side, w, log_w, a, d = (x[far] for x in (left, c, low, high, t, side, w, log_w, a, d))
    return found


def _maximised(x: Tensor, count: int, floor: float, rounds: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, n) and P (K, n, n) of K = `count` Gaussians or as many as points differ, all of about unit size."""
    n, centres = x.shape[1], _spread(x, count, generator)
    count = len(centres)
    nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in torch.split(x, 4096)])
    r = torch.nn.functional.one_hot(nearest, count).to(x)
    total, means, P = r.sum(0), centres, torch.eye(n).to(x).expand(count, n, n)
    for _ in range(rounds):
        total = r.sum(0).clamp_min(1e-6)
        means = (r.mT @ x) / total[:, None]
        scatter = torch.stack([(r[:, k, None] * x).mT @ x / total[k] for k in range(count)])
        cov = scatter - means[:, :, None] * means[:, None] + floor**2 * torch.eye(n).to(x)
        P = torch.linalg.inv(torch.linalg.cholesky(cov))
        logs = (total / len(x)).log() + P.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        u = torch.stack([((x - means[k]) @ P[k].mT).square().sum(-1) for k in range(count)], -1)
        r = torch.softmax(logs - u / 2, -1)
    return total / len(x), means, P


def _spread(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: centres drawn one after the other, by the squared distance to the nearest of those before, if any has one."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    far = (x - x[chosen[0]]).square().sum(-1)
    for _ in range(count - 1):
        if not bool(far.any()):
            break
        chosen.append(int(torch.multinomial(far, 1, generator=generator)))
        far = torch.minimum(far, (x - x[chosen[-1]]).square().sum(-1))
    return x[chosen]
