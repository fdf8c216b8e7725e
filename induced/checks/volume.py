"""The law of log|det J|: against the volume of an autograd Jacobian."""

import math

import torch
from torch import Tensor

from induced.bijections import Bijection, Inverse
from induced.checks.measure import Noise, attempt, compare, not_applicable
from induced.checks.report import Report

ALL_SAMPLES = 64
"""So many coordinates have their Jacobian taken at all samples."""


def volume_laws(g: Bijection, x: Tensor, z: Tensor, known: Noise) -> list[Report]:
    """log|det J| of both directions, and that its two sources give the same coordinates.

    Arguments:
        x, z: points (k, *shape) and their coordinates.
        known: what rounding may do to the coordinates.
    """
    law = "log|det J|"
    if not all(map(_has_determinant, g.layers())):
        return [not_applicable(law, "Jacobian", f"{type(g).__name__} has no log|det J|")]
    if z[0].numel() > ALL_SAMPLES:
        return [not_applicable(law, "Jacobian", "TODO")]
    return [attempt(law, "Jacobian", lambda law, of: _volume(law, of, g, x))]


def _has_determinant(layer: Bijection) -> bool:
    g = layer.inv if isinstance(layer, Inverse) else layer
    return type(g).forward_and_log_abs_det is not Bijection.forward_and_log_abs_det


def _volume(law: str, statement: str, g: Bijection, points: Tensor) -> Report:
    # A chart of a constrained set has its derivative along the tangent space alone, which that of its inverse spans.
    tangent = points[0].numel() != math.prod(g.coord_shape)
    f, at = (g.inverse, g(points).detach()) if tangent else (g, points)
    with torch.enable_grad():
        J = torch.stack([torch.func.jacrev(f)(p) for p in at]).detach().double().reshape(len(at), -1, at[0].numel())
    s = torch.linalg.svdvals(J)
    volume = (-1 if tangent else 1) * s.log().sum(-1)
    there, back = g.log_abs_det(points), g.inv.log_abs_det(g(points).detach())
    difference = torch.stack([there.detach().double() - volume, back.detach().double() + volume]).abs().amax(0)
    n = s.shape[-1]
    return compare(law, statement, difference, n, n * float((s[:, 0] / s[:, -1]).max()), points)
