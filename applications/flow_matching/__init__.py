"""One-step flow matching: a Linearizer between a noise space and a data space (MATH.md, section 3)."""
