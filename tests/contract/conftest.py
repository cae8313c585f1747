"""These tests download packages, so they run only when they are asked for by their marker."""

import pytest


def pytest_collection_modifyitems(config, items):
    if "contract" in (config.getoption("-m") or ""):
        return
    reason = pytest.mark.skip(reason="downloads packages; on request: python -m pytest -m contract")
    for item in items:
        if "contract" in item.keywords:
            item.add_marker(reason)
