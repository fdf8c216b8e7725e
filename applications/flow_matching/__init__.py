"""One-step flow matching: a Linearizer between a noise space and a data space (docs/mathematics.md, 3)."""
