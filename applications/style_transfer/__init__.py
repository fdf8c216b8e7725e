"""Modular style transfer: styles as linear operators between two induced spaces, distilled from feed-forward networks."""
