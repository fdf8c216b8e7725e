"""A style added to a trained student: its core alone is fitted, charts frozen."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from applications.common.perceptual import PerceptualDistance
from applications.common.watch import GROWTH, fact
from applications.style_transfer.config import IDENTITY
from applications.style_transfer.model import StyleTransfer
from applications.style_transfer.objective import pixels
from induced.errors import DomainError, ShapeError


@torch.no_grad()
def fit_kernel(model: StyleTransfer, x: Tensor, y: Tensor, *, ridge: float = 1e-3) -> Tensor:
    """The kernel K of least sum |A_K g_x(x_i) - g_y(y_i)|^2 + ridge m |K - K_0|^2, K_0 that of the identity, in closed form.

    A convolution is linear in its kernel: these are least squares with one row for each position of each picture, m in all. They
    minimise the error in coordinates, not that in pixels. Positions from which the kernel sees beyond the border are left out.

    Arguments:
        model: the trained student.
        x: photographs (N, 3, H, W) in [-1, 1).
        y: what the style makes of them.
        ridge: the penalty, > 0.

    Raises:
        ShapeError: not as many x as y, or of other shapes, or pictures smaller than the kernel. DomainError: the ridge is not
            positive.

    Law:
        the kernel of pictures y = f_s(x) is that of s, as the ridge goes to 0 (applications/style_transfer/test_training.py)
    """
    if x.shape != y.shape or x.dim() != 4 or not len(x):
        raise ShapeError(f"as many pictures (N, 3, H, W) before as after are needed, got {tuple(x.shape)} and {tuple(y.shape)}")
    if not ridge > 0:
        raise DomainError(f"the ridge is positive, got {ridge}")
    config, (H, W) = model.config, x.shape[-2:]
    styles, k, g = model.at(H, W), config.kernel, config.groups
    if min(H, W) < k * config.stride:
        raise ShapeError(f"pictures are at least as large as the kernel, {k * config.stride} pixels, got {H}x{W}")
    grid, per = (config.channels, H // config.stride, W // config.stride), config.channels // g
    start = styles.kernels[styles.index(IDENTITY)].double().reshape(g, per, per * k * k).mT
    before = (k - 1) // 2
    gram = start.new_zeros(g, per * k * k, per * k * k)
    right, rows = torch.zeros_like(start), 0
    for one, other in zip(torch.split(x, 1), torch.split(y, 1), strict=True):
        z, w = (space.coords(t).reshape(1, *grid).double() for space, t in ((styles.domain, one), (styles.codomain, other)))
        patches = F.unfold(z, k).reshape(g, per * k * k, -1).mT
        inner = w[..., before : before + grid[1] - k + 1, before : before + grid[2] - k + 1]
        wanted = inner.reshape(g, per, -1).mT
        gram += patches.mT @ patches
        right += patches.mT @ (wanted - patches @ start)
        rows += patches.shape[1]
    gram.diagonal(dim1=-2, dim2=-1).add_(ridge * rows)
    found = start + torch.cholesky_solve(right, torch.linalg.cholesky(gram))
    return found.mT.reshape(styles.kernels.shape[1:]).to(x)


def refine_kernel(
    model: StyleTransfer,
    kernel: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 200,
    batch: int = 4,
    patch: int = 128,
    learning_rate: float = 1e-3,
    distance: PerceptualDistance | None = None,
    perceptual: float = 4.0,
    seed: int = 0,
) -> Tensor:
    """A short run of Adam on the kernel alone, on random squares of the pictures (N, 3, H, W).

    The loss is the error in pixels, and `perceptual` times a distance, if one is given.

    Raises:
        DomainError: no step, or no picture a step; or the steps diverge.
    """
    if steps < 1 or batch < 1:
        raise DomainError(f"at least one step and one picture a step, got steps={steps}, batch={batch}")
    patch = min(patch, *x.shape[-2:]) // model.config.stride * model.config.stride
    styles, trained = model.at(patch, patch), nn.Parameter(kernel.clone())
    optimizer = torch.optim.Adam([trained], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    margin, first = patch // 8, 0.0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        squares = [_square(x, y, patch, generator) for _ in range(batch)]
        content, target = (torch.cat(part) for part in zip(*squares, strict=True))
        inner = (..., slice(margin, patch - margin), slice(margin, patch - margin))
        try:
            found, target = styles.operator(trained)(content)[inner], target[inner]
        except DomainError as error:
            if not step:
                raise
            raise _diverged(step, steps, learning_rate, fact(error)) from error
        loss = pixels(found, target)
        if distance is not None:
            loss = loss + perceptual * distance(found, target).mean()
        now = float(loss.detach())
        first = first if step else now
        if not now <= GROWTH * max(1.0, first):
            raise _diverged(step + 1, steps, learning_rate, f"the loss is {now:.3g}, it was {first:.3g} at first")
        (trained.grad,) = torch.autograd.grad(loss, [trained])
        optimizer.step()
    return trained.detach()


def _diverged(step: int, steps: int, learning_rate: float, what: str) -> DomainError:
    return DomainError(
        f"the fit of the style stopped at step {step} of {steps}, at a learning rate of {learning_rate:.3g}: {what}; take a "
        "smaller learning_rate, or the kernel of fit_kernel as it is"
    )


def _square(x: Tensor, y: Tensor, patch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    i, top, left = (
        int(torch.randint(n, (), generator=generator)) for n in (len(x), x.shape[-2] - patch + 1, x.shape[-1] - patch + 1)
    )
    places = (slice(i, i + 1), slice(None), slice(top, top + patch), slice(left, left + patch))
    return x[places], y[places]
