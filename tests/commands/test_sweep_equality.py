"""Settings trained together end as each does alone: every model, both modes, one and
several devices, in float64."""

import dataclasses
import functools

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but
from test_configs import NAMES, named, shrunk, tiny_log

from recall_jax.data.sources import synthetic
from recall_jax.run import build as build_lib
from recall_jax.run import data as data_lib
from recall_jax.training import stack
from recall_jax.training import step as step_lib

NAMES = [n for n in NAMES if not data_lib.is_streamed(named(n))]
STEPS = 20
SETTINGS = ((0, 1.0), (1, 1.5), (1, 2.0))  # seed, and what hypers are multiplied by
RATE = 0.2  # of the config's learning rate: Adam magnifies what rounding leaves of zero
TRACED = ("learning_rate", "weight_decay", "temperature", "margin", "strength")
POPULARITY = "mf_ml1m, 1,024 by popularity^0.75"
QUICK = ("item2vec_synthetic",)


def in_float64(tree):
    """The tree with its floats in double precision; the caller has allowed that."""

    def wide(leaf):
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(np.asarray(leaf), jnp.float64) if floats else leaf

    return jax.tree.map(wide, tree)


@functools.cache
def small(name):
    """A config shrunk, and its data. Not so far that all hidden units of a query are off:
    its vector is then a bias near 0, and made one of length 1 it magnifies rounding."""
    config = shrunk(named(name))
    for field in ("hidden", "item_hidden"):
        if getattr(config.model, field, ()):
            setattr(config.model, field, (32,))
    if hasattr(config.model, "hidden"):
        config.model.width = 8
    with pytest.MonkeyPatch.context() as patch:
        if not isinstance(config.data, synthetic.Config):
            log = tiny_log(config)
            patch.setattr(type(config.data), "load", lambda self: log)
        return config, data_lib.read(config).data


def pieces(name):
    """(step, states, hypers, sources, examples) of SETTINGS, in float64; where negatives
    follow popularity, each setting has its own exponent."""
    config, data = small(name)
    states, hypers, sources, examples = [], [], [], []
    for number, (seed, factor) in enumerate(SETTINGS):
        own = dataclasses.replace(config, seed=seed)
        if config.negatives.kind == "popularity":
            own.negatives = dataclasses.replace(own.negatives, alpha=number / 2)
        on = build_lib.make_corpus(own, data)
        size = config.train.batch_size
        built = build_lib.make(own, data, batch_size=size * on.span)
        base = step_lib.make_hypers(own.optim, own.loss, own.negatives, num_steps=STEPS)
        base["learning_rate"] *= RATE
        changed = {field: base[field] * factor for field in TRACED}
        if built.state.candidates.index is not None:
            vectors = jnp.ones(built.state.candidates.index.shape)
            memory = built.state.candidates._replace(index=vectors)
            built = built._replace(state=built.state._replace(candidates=memory))
        rows = np.random.default_rng(seed)
        drawn = rows.integers(0, on.num_rows, (STEPS, size)).astype(np.int32)
        states.append(in_float64(built.state))
        hypers.append(in_float64(base | changed))
        sources.append(in_float64(on.source))
        examples.append(
            drawn * (1 if on.span == 1 or build_lib.on_pairs(own) else on.span)
        )
        first_built = built if number == 0 else first_built
    return build_lib.make_step(config, first_built), states, hypers, sources, examples


def alone(step, states, hypers, sources, examples):
    run = step_lib.scan_steps(step)
    return [
        run(jax.tree.map(jnp.copy, one), *rest)
        for one, *rest in zip(states, hypers, sources, examples, strict=True)
    ]


def all_together(step, states, hypers, sources, examples, *, mode, devices, parts=1):
    """The end of each, the examples in `parts` dispatches, and how often it compiled."""
    layout = stack.make_layout(len(states), mode=mode, devices=devices)
    lane_sources = stack.make_sources(sources)
    each = {
        "hypers": stack.stacked(hypers),
        "own": lane_sources.own,
        "active": np.ones(len(states), bool),
    }
    common = {"shared": stack.share(lane_sources.shared, layout)}
    stacked = stack.place(stack.stacked(states), layout)
    program = stack.make_stacked_step(step, lane_sources, layout)
    each = stack.place(each, layout)
    portions = [
        stack.place(np.stack(part), layout)
        for part in zip(*(np.split(x, parts) for x in examples), strict=True)
    ]
    with compilations.counted() as compiled:
        for portion in portions:
            stacked, metrics = program(stacked, each | {"examples": portion}, common)
    ends = [stack.lane(stacked, at, layout) for at in range(len(states))]
    return ends, metrics, compiled.count


def assert_equal(one, other):
    def same(a, b):
        if jnp.issubdtype(a.dtype, jnp.floating):
            scale = np.max(np.abs(b), initial=1, where=np.isfinite(b))
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * scale)
        else:
            np.testing.assert_array_equal(a, b)

    jax.tree.map(same, one, other)


@pytest.mark.parametrize("name", slow_but(QUICK, NAMES))
def test_each_setting_ends_as_alone(name):
    with jax.enable_x64(True):
        step, *rest = pieces(name)
        expected = [end for end, _ in alone(step, *rest)]
        moved = jax.tree.map(np.array_equal, expected[1].dense, expected[2].dense)
        tables = jax.tree.map(np.array_equal, expected[1].tables, expected[2].tables)
        assert not all(jax.tree.leaves((moved, tables))), "hypers changed nothing"
        for mode in stack.MODES:
            devices = jax.devices()[:1] if mode == "vmap" else jax.devices()
            ends, _, compiled = all_together(
                step, *rest, mode=mode, devices=devices, parts=2
            )
            assert compiled == 1, "two dispatches of one program"
            for end, lone in zip(ends, expected, strict=True):
                assert_equal(end, lone)


def test_two_settings_a_device_and_padding_end_as_alone():
    with jax.enable_x64(True):
        step, *rest = pieces(POPULARITY)
        expected = [end for end, _ in alone(step, *rest)]
        for mode in stack.MODES:
            devices = jax.devices()[:2]
            ends, _, _ = all_together(step, *rest, mode=mode, devices=devices)
            for end, lone in zip(ends, expected, strict=True):
                assert_equal(end, lone)
