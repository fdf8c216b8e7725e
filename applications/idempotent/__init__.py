"""The idempotent generator: a projector onto images of a kind, f(f(x)) == f(x) to the last bit (docs/theory/idempotent.md)."""
