"""One-step flow matching: a Linearizer between a noise space and a data space (docs/theory/flow_matching.md)."""
