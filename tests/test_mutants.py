"""The lists of planted faults fit the code and the tests as they stand; `mutants` plants
them."""

import collections
import functools
import pathlib
import re

import mutants
import own_failures
import pytest

MUTANTS = mutants.load()
WIRING = {
    f"recall_jax/{name}.py"
    for name in (
        "training/step",
        "training/loop",
        "training/lanes",
        "training/stack",
        "models/graph",
        "losses/objective",
        "losses/candidates",
        "losses/negatives",
        "pairs/corpus",
        "pairs/step",
        "pairs/skipgram",
        "evaluate/measure",
        "evaluate/encode",
        "data/prepare",
        "data/prepared",
    )
}
"""Files that compute little and hand much on, as all of experiments/ do: a fault there
leaves every part right, and the figures wrong."""


@functools.cache
def functions(file: str) -> set[str]:
    text = (mutants.ROOT / file).read_text("utf-8")
    return set(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))


def test_faults_can_be_planted_and_their_tests_are_there():
    problems = [(str(m), mutants.problem_of(m)) for m in MUTANTS]
    assert [problem for problem in problems if problem[1]] == []
    assert all(mutant.tests for mutant in MUTANTS)
    absent = []
    for test in {test for mutant in MUTANTS for test in mutant.tests}:
        file, _, name = test.partition("::")
        if name.partition("[")[0] not in functions(file):
            absent.append(test)
    assert absent == []


def test_there_are_many_each_once_and_half_of_them_where_parts_meet():
    planted = collections.Counter((m.file, m.text, m.other) for m in MUTANTS)
    assert not [each for each, count in planted.items() if count > 1]
    assert len(MUTANTS) >= 50
    wired = [m for m in MUTANTS if m.file in WIRING or m.file.startswith("experiments")]
    assert 2 * len(wired) >= len(MUTANTS)


@pytest.mark.parametrize(
    ("text", "other", "said"),
    [
        ("b = 2", "b = 3", None),
        ("b = 4", "b = 3", "stands there 0 times"),
        ("= 2", "= 3", "stands there 2 times"),
        ("b = 2", "b = 2", "changes nothing"),
    ],
)
def test_what_cannot_be_planted_is_told(tmp_path, text, other, said):
    (tmp_path / "a.py").write_text("a = 2\nb = 2\n")
    problem = mutants.problem_of(mutants.Mutant("a.py", text, other, ("t",)), tmp_path)
    assert problem is said is None or said in problem
    absent = mutants.Mutant("none.py", text, other, ("t",))
    assert mutants.problem_of(absent, tmp_path) == "there is no such file"


def raised(code: str, file: pathlib.Path) -> BaseException:
    with pytest.raises(BaseException) as caught:
        exec(compile(code, str(file), "exec"))  # noqa: S102
    return caught.value


def test_only_a_tests_own_assertion_sees_a_fault():
    test = pathlib.Path(__file__)
    library = mutants.ROOT / "recall_jax" / "metrics.py"
    assert own_failures.is_own(raised("assert 0", test))
    assert own_failures.is_own(raised("import pytest; pytest.fail('no')", test))
    for code in ("1 / 0", "import none_such", "raise TypeError"):
        assert not own_failures.is_own(raised(code, test))
    assert not own_failures.is_own(raised("assert 0", library))
    several = [raised("assert 0", test), raised("1 / 0", test)]
    assert own_failures.is_own(ExceptionGroup("hypothesis", several))
