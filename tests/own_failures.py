"""A plugin of pytest: whether each test passed, or failed by an assertion of its own.

What `RECALL_TOLD` names gets a line a test, [outcome, its id]. An error of another kind, or
an assertion within the library, is "broken": it says that something went wrong, and
nothing of what the test is there to see.
"""

import json
import os
import pathlib

import pytest

TESTS = pathlib.Path(__file__).parent
LIBRARY = tuple(TESTS.parent / name for name in ("recall_jax", "experiments"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.passed and report.when != "call":
        return
    outcome = report.outcome
    if report.failed:
        outcome = "failed" if is_own(call.excinfo.value) else "broken"
    with open(os.environ["RECALL_TOLD"], "a", encoding="utf-8") as file:
        file.write(json.dumps([outcome, item.nodeid]) + "\n")


def is_own(problem: BaseException) -> bool:
    """Whether a test's own assertion, pytest.raises or pytest.warns failed."""
    if isinstance(problem, BaseExceptionGroup):  # hypothesis found several
        return any(map(is_own, problem.exceptions))
    if not isinstance(problem, (AssertionError, pytest.fail.Exception)):
        return False
    trace = problem.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    raised = pathlib.Path(trace.tb_frame.f_code.co_filename)
    return not any(raised.is_relative_to(folder) for folder in LIBRARY)
