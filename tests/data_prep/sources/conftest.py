"""what the tests of sources leave as they found it"""

import csv
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def csv_field_limit() -> Iterator[None]:
    """The csv module's field limit holds for the process; a test that lowers it must not leak."""
    limit = csv.field_size_limit()
    yield
    csv.field_size_limit(limit)
