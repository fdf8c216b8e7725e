"""The idempotent generator: a projector onto the images of a kind, f(f(x)) == f(x) to the last bit (docs/mathematics.md, 5)."""
