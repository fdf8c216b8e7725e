"""A density of clusters as a chart: a Gaussian mixture, fitted by expectation-maximisation, and its map to N(0, I)."""

import math
from typing import final

import torch
from torch import Tensor, nn

from induced.bijections import Bijection
from induced.errors import DomainError, ShapeError
from induced.serialization import register

STEPS, NEAR, CLOSE, TOGETHER = 64, 1e-4, 1e-8, 128
"""Most steps of a root, each of Newton or a halving; relative lengths of steps that end them; points at a time."""
SEEN, LEAST = 14.0, 1e-290
"""Components of less weight than exp(-this - t^2 / 2) of the largest wait; the least probability that is not a logarithm."""
UNUSED = -1e4
"""The logarithm of no weight: that of a component which nothing is fitted to."""
HALF_LOG_2PI = math.log(2 * math.pi) / 2


@final
class GaussianMixture(Bijection):
    """z_i = Phi^-1(F_i(c_i | c_1 .. c_{i-1})), F_i the conditional distributions of a mixture of `components` Gaussians on R^n.

    This is the Knothe-Rosenblatt map of the mixture: c is distributed as the mixture exactly where z is N(0, I). A chart made of
    couplings maps one Gaussian to separate clusters by thin bridges between them, whose points are drawn; here there are none.
    log|det J| = log p(c) - log N(z; 0, I). Forward it is closed; the inverse finds n roots one after the other, each in a bracket
    that the components give: between their own c with Phi(u_k) = Phi(z). All is computed in float64. A new one is the identity.

    Arguments:
        n: coordinates.
        components: how many Gaussians; each has a weight, a mean and a full covariance (P^T P)^-1, P lower triangular.

    Raises:
        DomainError: there is no component.

    Law:
        `g.inverse(g(c)) == c`, and p of one component is its Gaussian (applications/flow_matching/test_mixture.py)
    """

    classes: Tensor

    def __init__(self, n: int, components: int) -> None:
        super().__init__((n,))
        if components < 1:
            raise DomainError(f"a mixture has at least one component, got {components}")
        self.components = components
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.zeros(components, n))
        self.log_diagonal = nn.Parameter(torch.zeros(components, n))
        self.lower = nn.Parameter(torch.zeros(components, n, n))
        self.register_buffer("classes", torch.zeros(components, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_and_log_abs_det(x)[0]

    def forward_and_log_abs_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_weight, means, P, log_diagonal = self._values()
        u = torch.einsum("kij,...kj->...ki", P, x.double().unsqueeze(-2) - means)
        each = log_diagonal - u.square() / 2 - HALF_LOG_2PI
        joint = log_weight[:, None] + torch.cat([torch.zeros_like(each[..., :1]), each.cumsum(-1)], -1)
        z = _quantile(torch.log_softmax(joint[..., :-1], -2), u)
        log_det = torch.logsumexp(joint[..., -1], -1) + (z.square() / 2 + HALF_LOG_2PI).sum(-1)
        return z.to(x.dtype), log_det.to(x.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        log_weight, means, P, log_diagonal = self._values()
        aim, joint, gone = z.double(), log_weight.expand(*z.shape[:-1], -1), list[Tensor]()
        for i in range(self.shape[0]):
            # u_k = a_k + d_k c_i, a_k known from the coordinates before
            d = log_diagonal[:, i].exp()
            a = -d * means[:, i]
            if gone:
                a = a + torch.einsum("kj,...kj->...k", P[:, i, :i], torch.stack(gone, -1).unsqueeze(-2) - means[:, :i])
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

        A fit within classes is the quicker, by their number. Components that nothing is fitted to keep no weight.

        Arguments:
            c: points (N, n).
            labels: classes (N,); each gets as many components as any other, those left over spread over the first, but one at
                least and no more than its points can carry: one for each 2 n. Component k serves `classes[k]`, -1 is none.
            floor: least standard deviation of a component, in those of the coordinates: none is a point.
            rounds: of expectation and maximisation.
            seed: of the start.

        Raises:
            ShapeError: there are fewer than two points, or more classes than components.
        """
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
        for name, value in self.named_parameters():
            value.fill_(UNUSED if name == "logits" else 0.0)
        self.classes.fill_(-1)
        self.logits[: len(weights)] = weights.log().to(self.logits)
        self.means[: len(weights)] = (mean + sd * means).to(self.means)
        self.log_diagonal[: len(weights)] = P.diagonal(dim1=-2, dim2=-1).log().to(self.means)
        self.lower[: len(weights)] = P.tril(-1).to(self.means)
        counts = torch.tensor([len(weights) for weights, _, _ in parts])
        self.classes[: len(weights)] = torch.tensor(kinds).repeat_interleave(counts).to(self.classes)

    def of_class(self, kind: int) -> "GaussianMixture":
        """The map of the components of one class alone: N(0, I) to its points.

        Raises:
            DomainError: no component serves it.
        """
        chosen = self.classes == kind
        if kind < 0 or not bool(chosen.any()):
            there = sorted(set(self.classes.tolist()) - {-1})
            raise DomainError(f"no component serves the class {kind}; there are {', '.join(map(str, there))}")
        part = GaussianMixture(self.shape[0], int(chosen.sum())).to(self.logits)
        with torch.no_grad():
            for name, value in part.named_parameters():
                value.copy_(getattr(self, name)[chosen])
        part.classes.fill_(kind)
        return part

    def _values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log weights (K,), means (K, n), P (K, n, n) and the logarithms of its diagonal (K, n), in float64."""
        log_diagonal = self.log_diagonal.double()
        P = self.lower.double().tril(-1) + torch.diag_embed(log_diagonal.exp())
        return self.logits.double().log_softmax(0), self.means.double(), P, log_diagonal


register(GaussianMixture, describe=lambda g: {"n": g.shape[0], "components": g.components}, name="flow_matching.GaussianMixture")


def _quantile(log_w: Tensor, u: Tensor) -> Tensor:
    """Phi^-1(sum_k w_k Phi(u_k)), k the second last axis, from the smaller of the two tails."""
    below = torch.logsumexp(log_w + torch.special.log_ndtr(u), -2)
    above = torch.logsumexp(log_w + torch.special.log_ndtr(-u), -2)
    z = _normal_quantile(torch.minimum(below, above).clamp_max(-math.log(2)))
    return torch.where(below < above, z, -z)


def _normal_quantile(log_p: Tensor) -> Tensor:
    """Phi^-1(p) of log p <= -log 2; one step of Newton on log Phi carries the derivatives."""
    known = log_p.detach()
    far = -(-2 * known - (4 * math.pi * -known).log()).clamp_min(1.0).sqrt()
    z = torch.where(known > -600, torch.special.ndtri(known.clamp_min(-600).exp()), far)
    for _ in range(2):
        z = z - (torch.special.log_ndtr(z) - known) * _mills(z)
    quantile: Tensor = z - (torch.special.log_ndtr(z) - log_p) * _mills(z)
    return quantile


def _mills(z: Tensor) -> Tensor:
    """Phi(z) / phi(z)."""
    log_ratio: Tensor = torch.special.log_ndtr(z) + z.square() / 2 + HALF_LOG_2PI
    return log_ratio.exp()


def _slope(log_w: Tensor, u: Tensor, d: Tensor, z: Tensor) -> Tensor:
    """dz/dc of z = Phi^-1(sum_k w_k Phi(a_k + d_k c)), u_k = a_k + d_k c."""
    log_slope: Tensor = torch.logsumexp(log_w + d.log() - u.square() / 2, -1) + z.square() / 2
    return log_slope.exp()


def _root(log_w: Tensor, a: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """The c with Phi^-1(sum_k w_k Phi(a_k + d_k c)) = t: nearly, by the components of weight, then by all."""
    batch, K = t.shape, log_w.shape[-1]
    log_w, a, d = (x.expand(*batch, K).reshape(-1, K) for x in (log_w, a, d))
    t = t.reshape(-1)
    least = log_w.amax(-1, keepdim=True) - SEEN - t[:, None].square() / 2
    count, start = (log_w > least).sum(-1), torch.empty_like(t)
    for part in torch.split(count.argsort(), TOGETHER):  # those that have as many left together
        weights, kept = log_w[part].topk(int(count[part].amax()), -1)
        few = weights, a[part].gather(-1, kept), d[part].gather(-1, kept)
        w, at = weights.exp(), (t[part, None] - few[1]) / few[2]
        start[part] = _newton(*few, t[part], (w * at).sum(-1) / w.sum(-1), NEAR)
    return _newton(log_w, a, d, t, start, CLOSE).reshape(batch)


def _carrying(c: Tensor, log_w: Tensor, a: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """The root c, with its derivatives: a step of Newton on log of the tail of t, of length 0."""
    side = torch.where(t > 0, -1.0, 1.0).to(t)
    u = a + d * c[..., None]
    log_p = torch.logsumexp(log_w + torch.special.log_ndtr(side[..., None] * u), -1)
    gap = log_p - torch.special.log_ndtr(side * t)
    log_slope = torch.logsumexp(log_w + d.log() - u.square() / 2, -1) - HALF_LOG_2PI - log_p
    carried: Tensor = c - (gap - gap.detach()) * side * (-log_slope.detach()).exp()
    return carried


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
            slope = _slope(log_w, u, d, value)
        low, high = torch.where(value < t, c, low), torch.where(value < t, high, c)
        step = c - (value - t) / slope
        new = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
        far = (new - c).abs() > close * (1 + c.abs())
        found[left] = c = new
        if not bool(far.any()):
            break
        left, c, low, high, t, side, w, log_w, a, d = (x[far] for x in (left, c, low, high, t, side, w, log_w, a, d))
    return found


def _maximised(x: Tensor, count: int, floor: float, rounds: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, n) and P (K, n, n) of K = `count` Gaussians, of points of about unit size."""
    n, centres = x.shape[1], _spread(x, count, generator)
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
    """k-means++: centres drawn one after the other, by the squared distance to the nearest of those before."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    far = (x - x[chosen[0]]).square().sum(-1)
    for _ in range(count - 1):
        chosen.append(int(torch.multinomial(far, 1, generator=generator)))
        far = torch.minimum(far, (x - x[chosen[-1]]).square().sum(-1))
    return x[chosen]
