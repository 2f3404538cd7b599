"""Everything here is marked `acceptance`: minutes of load, run by `make accept`, with a time limit of its own."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIMEOUT_S = 600


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))
