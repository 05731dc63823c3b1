"""A config as flags and as JSON, and back; what it refuses."""

import copy
import dataclasses
import functools
import json
import math
import shlex

import pytest
from absl import flags

from experiments.common import cli
from recall_jax.run import config as config_lib
from recall_jax.run.config import Experiment
from recall_jax.types import InputError

NAMES = cli.config_names()


@pytest.fixture
def parse():
    """A command line to its config."""

    def call(*arguments):
        for name in list(flags.FLAGS):
            if name.partition(".")[0] == "config":
                delattr(flags.FLAGS, name)
        cli.parse(["command", *arguments])
        return flags.FLAGS.config

    return call


def with_field(config, path: str, value):
    """A copy with the field at `path` changed."""
    name, _, rest = path.partition(".")
    inner = with_field(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_the_same_after_json(name):
    config = cli.load_config(name)
    text = json.dumps(config_lib.as_dict(config))
    assert config_lib.from_dict(json.loads(text)) == config


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_the_same_after_its_flags(name, parse):
    config = cli.load_config(name)
    config = with_field(config, "train.epochs", 77)
    config = with_field(config, "loss.temperature", 1e-7)
    if hasattr(config.model, "hidden"):
        config = with_field(config, "model.hidden", ())
        config = with_field(config, "model.query", ("history", "a, b"))
    config = with_field(config, "evaluate.metrics", ("hr@3",))
    config = with_field(config, "evaluate.select_by", "it's $HOME")
    line = shlex.split(" ".join(config_lib.as_flags(config)))
    assert parse(f"--config={name}", *line) == config


@pytest.mark.parametrize("name", NAMES)
def test_flags_that_differ_from_defaults_are_all_that_is_needed(name):
    config = cli.load_config(name)
    flags_ = [shlex.split(flag)[0] for flag in config_lib.changed_flags(config)]
    assert not any(x.startswith("--config.loss.calibration") for x in flags_)
    bare = Experiment("", type(config.data)(), type(config.model)())
    values = dict(x.removeprefix("--config.").split("=", 1) for x in flags_)
    assert cli._overridden(bare, values) == config


def test_defaults_are_those_of_the_model_not_of_its_parts():
    config = cli.load_config("eges_synthetic")
    assert config.model.pairs.corpus == "walks"
    assert not any("corpus" in x for x in config_lib.changed_flags(config))
    config = with_field(config, "model.pairs.corpus", "sequences")
    assert "--config.model.pairs.corpus=sequences" in config_lib.changed_flags(config)


def test_of_a_source_without_defaults_all_fields_are_printed():
    @dataclasses.dataclass
    class Source:
        path: str

    config = Experiment("mine", Source("here"), cli.load_config(cli.DEFAULT).model)
    assert config_lib.changed_flags(config) == config_lib.as_flags(config)


@pytest.mark.parametrize(
    ("argument", "path", "value"),
    [
        ("--config.model.width=3", "model.width", 3),
        ("-config.loss.temperature=1", "loss.temperature", 1.0),
        ("--config.model.hidden=64,32", "model.hidden", (64, 32)),
        ("--config.model.hidden=(64,)", "model.hidden", (64,)),
        ("--config.model.hidden=", "model.hidden", ()),
        ("--config.model.query=history,device", "model.query", ("history", "device")),
        ("--config.model.query=('history',)", "model.query", ("history",)),
        ("--config.evaluate.metrics=hr@5", "evaluate.metrics", ("hr@5",)),
        ("--config.name=a=b", "name", "a=b"),
    ],
)
def test_a_flag_sets_its_field_and_nothing_else(parse, argument, path, value):
    config = cli.load_config(cli.DEFAULT)
    assert parse(argument) == with_field(config, path, value)
    assert parse(*argument.split("=", 1)) == with_field(config, path, value)


def test_of_a_flag_given_twice_the_last_counts_wherever_config_stands(parse):
    twice = "--config.model.hidden=3", "--config.model.hidden=5,6"
    config = parse(*twice, f"--config={cli.DEFAULT}")
    assert config.model.hidden == (5, 6)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("model.width", "8", "model.width should be int, not '8' .str."),
        ("model.width", 8.0, "model.width should be int, not 8.0"),
        ("model.hidden", [8], r"model.hidden should be tuple\[int, ...\], not \[8\]"),
        ("model.hidden", ("8",), r"should be tuple\[int, ...\], not \('8',\)"),
        ("model.query", (1,), r"should be tuple\[str, ...\], not \(1,\)"),
        ("model", None, "--config.model should be .*Any, not None"),
        ("train", 3, "--config.train should be TrainConfig, not 3"),
        ("loss.temperature", float("nan"), "is nan; it must be a finite number"),
        ("optim.weight_decay", float("inf"), "is inf; it must be a finite number"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(path, value, expected):
    config = with_field(cli.load_config(cli.DEFAULT), path, value)
    with pytest.raises(InputError, match=expected):
        config_lib.check(config)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_passes_its_checks(name):
    config_lib.check(cli.load_config(name))


def test_a_whole_number_will_do_for_a_fraction():
    config_lib.check(with_field(cli.load_config(cli.DEFAULT), "optim.learning_rate", 1))


def fields_of(config, path="config"):
    """Path and field of every value, of the groups too."""
    for field in dataclasses.fields(config):
        value, walked = getattr(config, field.name), f"{path}.{field.name}"
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, walked)
        else:
            yield walked.removeprefix("config."), field


RULED = {
    (type(config.model).__module__, type(config.data).__module__, path): (
        name,
        path,
        field,
    )
    for name in NAMES
    for config in [cli.load_config(name)]
    for path, field in fields_of(config)
}


def wrong_values(field):
    """What the field's type, its bounds and its names refuse, each with a sentence."""
    several = "tuple" in str(field.type)
    rule = dict(field.metadata)
    yield object(), "should be "
    if "names" in rule:
        yield "no such name", "unknown .*; .*there are: "
    if rule.get("least", -math.inf) > -math.inf:
        yield rule["least"] - 1, "it must be (at least|from) "
    if rule.get("above", -math.inf) > -math.inf:
        yield rule["above"], "it must be above "
    if rule.get("most", math.inf) < math.inf:
        yield rule["most"] + 1, "it must be from .* to "
    if rule.get("below", math.inf) < math.inf:
        yield float(rule["below"]), "it must be at least .* and below "
    if field.type is float:
        yield math.nan, "must be a finite number"
    if rule.get("filled") and several:
        yield (), "is empty; it needs at least one entry"


def test_every_field_refuses_what_its_rule_does_not_allow():
    """One sentence with the field's flag, of every field of every config."""
    refused = 0
    for name, path, field in RULED.values():
        config = cli.load_config(name)
        for value, sentence in wrong_values(field):
            if "tuple" in str(field.type) and value != () and "should" not in sentence:
                value = (value,)
            elif field.type is float and isinstance(value, int):
                value = float(value)
            changed = copy.deepcopy(config)
            *groups, last = path.split(".")
            setattr(functools.reduce(getattr, groups, changed), last, value)
            with pytest.raises(InputError, match=sentence) as error:
                config_lib.check(changed)
            assert f"--config.{path}" in str(error.value) and "\n" not in str(
                error.value
            )
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("negatives.alpha", 11.0, "negatives.alpha is 11.0; it must be from 0 to 10"),
        ("model.pairs.alpha", 11.0, "pairs.alpha is 11.0; it must be from 0 to 10"),
        ("model.pairs.p", 1e-30, "pairs.p is 1e-30; it must be from 0.01 to 100"),
        ("model.pairs.q", 1e30, r"pairs.q is 1e\+30; it must be from 0.01 to 100"),
        ("model.width", 2**40, "model.width is 1099511627776; it must be at most"),
        ("model.hidden", (8, 2**40), r"hidden is \(8, 10.*\); it must be at most"),
    ],
)
def test_what_is_too_large_is_refused(path, value, expected):
    name = "eges_synthetic" if "pairs" in path else cli.DEFAULT
    with pytest.raises(InputError, match=expected):
        config_lib.check(with_field(cli.load_config(name), path, value))


def test_a_seed_may_be_of_any_size():
    config_lib.check(with_field(cli.load_config(cli.DEFAULT), "data.ties_seed", 2**40))


def test_a_config_of_foreign_types_or_fields_is_refused():
    content = config_lib.as_dict(cli.load_config(cli.DEFAULT))
    with pytest.raises(InputError, match="the type os:path, not of recall_jax"):
        config_lib.from_dict(content | {"data": {"type": "os:path"}})
    more = content["train"] | {"epoch": 3}
    with pytest.raises(InputError, match="no field 'epoch'; did you mean 'epochs'"):
        config_lib.from_dict(content | {"train": more})
