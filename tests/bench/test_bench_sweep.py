"""The bench of sweeps: what it says of the commands that it timed."""

import json

from command_line import called

from experiments.bench import sweep
from experiments.common import cli


def test_it_reports_the_commands_that_were_timed_not_those_asked_for(monkeypatch):
    timed = []

    def time_commands(sweep_flags, cells, *, folder):
        timed.extend(cells)
        return {"sweep": 1.0, "separate": 1.0}

    times = {"together": 1.0, "alone": 2.0}
    monkeypatch.setattr(sweep, "time_training", lambda *_, **__: times)
    monkeypatch.setattr(sweep, "time_commands", time_commands)
    status, output, said = called(
        sweep, "--smoke", "--commands=99", parse=cli.parse_plain
    )
    assert status == 0, said
    result = json.loads(output.splitlines()[-1])
    assert result["separate_commands_timed"] == result["settings"] == len(timed) == 4
