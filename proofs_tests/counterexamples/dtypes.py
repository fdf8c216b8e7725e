"""Every law is judged in both precisions."""

import pytest

from proofs_tests.registry import DTYPES

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
