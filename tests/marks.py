"""Which of a test's parameters run in every session."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(quick: Collection, values: Iterable) -> list[Any]:
    """Values as parameters, marked slow but for the quick."""
    values = list(values)
    assert set(quick) <= set(values), f"unknown: {set(quick) - set(values)}"
    return [value if value in quick else slow(value) for value in values]


def slow(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)
