"""What the tests of measures share."""

from induced import Report

HOLDS = Report("law", "Prop 1", 0.0, 1e-9)
VIOLATED = Report("law", "Prop 1", 1.0, 1e-9)


def wide(tolerance: float) -> Report:
    return Report("law", "Prop 1", 0.0, tolerance)
