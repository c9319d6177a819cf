"""Says why the tests of faults are skipped where there are no network namespaces to be had."""

import pytest

from tests.faults.namespaces import missing


@pytest.fixture(scope="session")
def machines() -> None:
    """This machine can play several ones; the test is skipped where it cannot."""
    if reason := missing():
        pytest.skip(reason)
