"""The laws as functions: each takes an object and samples, and returns Reports with a derived tolerance.

A residual is normalised by the size of what is compared. The tolerance is 10 * eps * (what rounding may do) / size: the
roundings of the charts at every point that the law visits (`HilbertSpace.roundings`), each carried through the operators
that follow it. A tolerance above 1e-2 makes a report not ok: too ill-conditioned to judge at its precision.
"""

from induced.checks.charts import check_bijection
from induced.checks.endomorphisms import check_group, check_idempotent, check_powers
from induced.checks.maps import check_adjoint, check_linear
from induced.checks.penrose import check_penrose
from induced.checks.report import Report, require
from induced.checks.run import check
from induced.checks.singular import check_svd
from induced.checks.spaces import check_space

__all__ = [
    "Report",
    "check",
    "check_adjoint",
    "check_bijection",
    "check_group",
    "check_idempotent",
    "check_linear",
    "check_penrose",
    "check_powers",
    "check_space",
    "check_svd",
    "require",
]
