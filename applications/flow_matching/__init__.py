"""One-step flow matching: a Linearizer between a noise space and a data space (docs/theory/flow_matching.md)."""

from applications.flow_matching.record import load_pretrained
from applications.flow_matching.vectors import fit_flow

__all__ = ["fit_flow", "load_pretrained"]
