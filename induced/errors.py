"""Every error the library raises on purpose: what came, what was expected, and the likely cause."""


class InducedError(Exception):
    """Base class of all errors raised by `induced`."""


class ShapeError(InducedError, ValueError):
    """A tensor, operator or chart has a shape that does not fit its partner."""


class DtypeError(InducedError, TypeError):
    """A tensor's dtype or device differs from that of the object it is given to."""


class DomainError(InducedError, ValueError):
    """A value lies outside the domain of a chart, or is not finite."""


class SpaceMismatch(InducedError, ValueError):
    """Two objects that must live in one and the same space do not."""


class SingularOperator(InducedError, ArithmeticError):
    """An inverse was asked of an operator that has none at its precision."""


class NotInvertible(InducedError, ValueError):
    """An inverse was asked of a map that has none."""


class NotSquare(InducedError, ValueError):
    """An operation of maps from a space to itself was asked of an operator that is not square."""


class MissingAdjoint(InducedError, NotImplementedError):
    """A foreign operator is asked for its adjoint, or for a gradient, and has none."""


class MissingDeterminant(InducedError, NotImplementedError):
    """log|det J| is asked of a chart that has none."""


class NotConverged(InducedError, ArithmeticError):
    """An iterative method stopped before it reached its tolerance."""


class LawViolation(InducedError, AssertionError):
    """A law of the mathematics does not hold for the object under check."""


class CheckpointError(InducedError, OSError):
    """A saved model or checkpoint is missing, damaged, or of a foreign kind."""


class MissingExtra(InducedError, ImportError):
    """An optional dependency is not installed."""


class DataError(InducedError, OSError):
    """A data set is missing, damaged, or not laid out as its reader expects."""


def explain_float64(error: TypeError) -> None:
    """Raise a DtypeError where torch says that a device has no float64, as Apple's; return for any other error."""
    if "support float64" in str(error) and not isinstance(error, InducedError):
        raise DtypeError(
            "this device has no float64, in which some constants are kept, matrices inverted and shifts rounded to a lattice: "
            "keep the model and its points on the CPU, x.to('cpu'), or use a device that has float64, as CUDA's"
        ) from error
