"""Skip-gram on sequences against gensim: input tokens a second, and the quality of both.

    python -m experiments.bench.skipgram
    python -m experiments.bench.skipgram --gensim_python=OTHER_ENVIRONMENT/bin/python

Sequences are drawn from a seed: users with two tastes each walk over `--items` items in
clusters. Both train on the same sequences for the same epochs, d, window and negatives,
without sub-sampling, gensim with a worker a core, its linear decay and its default rate;
they are timed in turn, compilation and vocabulary left out. Quality is how well the
held-out sequences' pairs are told from random ones by frequency^0.75: the AUC of
h_center . z_context. `tokens_ratio_5m_over_50k` is the speed at 5 million items over that
at 50 thousand (--large). gensim runs in a process of its own, so that it may live in
another environment; without it its figures are null. The last line is JSON.
"""

import functools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from recall_jax import schema as schema_lib
from recall_jax.data.arrays import Events
from recall_jax.losses import sampling
from recall_jax.losses.negatives import NegativesConfig
from recall_jax.losses.objective import LossConfig
from recall_jax.models import item2vec, itemwise
from recall_jax.pairs import corpus
from recall_jax.pairs import sequences as sequences_lib
from recall_jax.pairs import step as pairs_step
from recall_jax.tables import layout
from recall_jax.training import loop
from recall_jax.training import step as training_step

GENSIM = """
import json, sys, time
import numpy as np
from gensim.models import Word2Vec
folder, d, window, k, epochs, rounds, workers = sys.argv[1:]
items, offsets = np.load(folder + "/items.npy"), np.load(folder + "/offsets.npy")
words = items.astype(str).tolist()
sentences = [words[a:b] for a, b in zip(offsets[:-1], offsets[1:])]
def make():
    model = Word2Vec(vector_size=int(d), window=int(window), negative=int(k), sg=1,
                     sample=0, min_count=1, workers=int(workers), seed=1)
    model.build_vocab(sentences)
    return model
times = []
for _ in range(int(rounds)):
    model, start = make(), time.perf_counter()
    model.train(sentences, total_examples=len(sentences), epochs=int(epochs))
    times.append(time.perf_counter() - start)
order = np.array([int(word) for word in model.wv.index_to_key])
size = int(items.max()) + 1
h, z = np.zeros((2, size, int(d)), np.float32)
h[order], z[order] = model.wv.vectors, model.syn1neg
np.save(folder + "/h.npy", h), np.save(folder + "/z.npy", z)
print(json.dumps(times))
"""


def make_sequences(num_items: int, *, num_tokens: int, seed: int) -> list[np.ndarray]:
    """Items 1..num_items by falling frequency; a sequence stays in two clusters."""
    rng = np.random.default_rng(seed)
    clusters = max(2, num_items // 40)
    sequences, total = [], 0
    while total < num_tokens:
        length = int(np.clip(rng.lognormal(4.6, 0.9), 5, 1000))
        taste = (rng.zipf(1.3, 2) - 1) % clusters
        at = np.cumsum(rng.random(length) < 0.1) % 2
        inside = np.minimum(rng.zipf(1.4, length) - 1, num_items // clusters - 1)
        sequences.append((1 + inside * clusters + taste[at]).astype(np.int32))
        total += length
    return sequences


def flat(sequences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = [len(sequence) for sequence in sequences]
    return np.concatenate(sequences), np.concatenate([[0], np.cumsum(lengths)])


class Ours:
    """The project's step on these sequences, compiled."""

    def __init__(self, items, offsets, *, num_items: int, config, given, epochs: int):
        dataset = _dataset(num_items)
        count = np.bincount(items, minlength=num_items + 1)[1:]
        source = corpus.PairData(
            dataset, sampling.popularity(np.maximum(count, 1), alpha=config.alpha)
        )
        sequences = sequences_lib.Sequences(
            items, offsets, *np.zeros((2, len(offsets) - 1), np.int32), True
        )
        self.corpus = corpus.on_sequences(config, source, sequences)
        optim = training_step.OptimConfig(
            learning_rate=given.learning_rate,
            tables="rowwise_adagrad",
            schedule="linear",
        )
        self.optimizer = training_step.make_optimizer(optim)
        self.plan = loop.make_plan(
            loop.TrainConfig(epochs=epochs, batch_size=given.blocks),
            num_rows=self.corpus.num_rows,
        )
        unused = LossConfig(), NegativesConfig()
        steps = self.plan.num_steps
        self.hypers = training_step.make_hypers(optim, *unused, num_steps=steps)
        column = schema_lib.Column("item", "item", num_items + 2, 0)
        schema = schema_lib.Schema(query=(), item=(column,))
        model = item2vec.Config(width=given.width, pairs=config)
        made_model, self.tables = model.make(schema, nnx.Rngs(0))
        graph, self.state = self._init(made_model)
        step = pairs_step.make_step(graph, config=config, optimizer=self.optimizer)
        shape = jax.ShapeDtypeStruct((self.plan.scan, self.plan.size), jnp.int32)
        args = (self.state, self.hypers, self.corpus.source, shape)
        self.run = training_step.scan_steps(step).lower(*args).compile()
        self.fresh = functools.partial(self._init, made_model)

    def _init(self, model):
        return training_step.init_state(
            model, self.tables, optimizer=self.optimizer, key=jax.random.key(0)
        )

    def epochs(self, number: int) -> float:
        """Seconds of this many epochs from a fresh state, which is kept."""
        _, state = self.fresh()
        state = jax.tree.map(jnp.copy, state)
        rng, plan, span = np.random.default_rng(0), self.plan, self.corpus.span
        orders = []
        for _ in range(number):
            order = rng.permutation(self.corpus.num_rows) * span + rng.integers(span)
            order = order[: plan.steps_per_epoch * plan.size].astype(np.int32)
            shape = (plan.dispatches, plan.scan, plan.size)
            orders += list(jax.device_put(order.reshape(shape)))
        jax.block_until_ready((state, orders))
        begin = time.perf_counter()
        for order in orders:
            state, metrics = self.run(state, self.hypers, self.corpus.source, order)
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - begin
        self.state = state
        return seconds

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """h and z by item, row 0 unused."""
        rows = self.tables[0].rows - 1  # without the unknown one
        h, z = (layout.whole(self.state.tables[x]) for x in ("item", "context"))
        return np.asarray(h[:rows]), np.asarray(z[:rows])


def _dataset(num_items: int) -> Events:
    """What a step on pairs reads of a data set: which items there are."""
    none = jnp.zeros(0, jnp.int32)
    return Events(
        items=none,
        weights=None,
        offsets=none,
        example_user=none,
        example_position=none,
        user_columns={},
        item_columns={},
        item_count=none,
        num_items=num_items,
        known_items=num_items,
        known_users=0,
        history_length=0,
    )


def auc(h, z, held_out: list[np.ndarray], *, count, window: int, seed: int) -> float:
    """Chance that a held-out pair within the window scores above a random context."""
    rng = np.random.default_rng(seed)
    center, context = [], []
    for sequence in held_out:
        for gap in range(1, min(window, len(sequence) - 1) + 1):
            center += [sequence[:-gap], sequence[gap:]]
            context += [sequence[gap:], sequence[:-gap]]
    center, context = np.concatenate(center), np.concatenate(context)
    share = np.where(count > 0, count, 0) ** 0.75
    other = rng.choice(len(share), len(center), p=share / share.sum())
    good = np.einsum("nd,nd->n", h[center], z[context])
    bad = np.einsum("nd,nd->n", h[center], z[other])
    return float(np.mean(good > bad) + 0.5 * np.mean(good == bad))


def by_gensim(items, offsets, *, given, rounds: int):
    """(seconds of each round, h, z) of gensim; None where it is not installed."""
    python = given.gensim_python or sys.executable
    probe = [python, "-c", "import gensim"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        return None
    sizes = given.width, given.window, given.negatives, given.epochs, rounds
    with tempfile.TemporaryDirectory() as folder:
        np.save(pathlib.Path(folder) / "items.npy", items)
        np.save(pathlib.Path(folder) / "offsets.npy", offsets)
        arguments = [folder, *map(str, sizes), str(given.workers)]
        done = subprocess.run(
            [python, "-c", GENSIM, *arguments],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"gensim failed: {done.stderr[-500:]}")
        h, z = (np.load(pathlib.Path(folder) / f"{name}.npy") for name in "hz")
    return json.loads(done.stdout.splitlines()[-1]), h, z


def compare(given) -> dict:
    """Speed and quality of both on the same sequences, in turn."""
    sequences = make_sequences(given.items, num_tokens=given.tokens, seed=0)
    parts = {
        "train": sequences[len(sequences) // 10 :],
        "test": sequences[: len(sequences) // 10],
    }
    items, offsets = flat(parts["train"])
    config = pairs_config(given)
    ours = Ours(
        items,
        offsets,
        num_items=given.items,
        config=config,
        given=given,
        epochs=given.epochs,
    )
    seconds, theirs, gensim_result = [], [], None
    ours.epochs(1)  # warm
    for _ in range(given.rounds):
        seconds.append(ours.epochs(given.epochs))
        gensim_result = by_gensim(items, offsets, given=given, rounds=1)
        theirs += gensim_result[0] if gensim_result else []
    count = np.bincount(items, minlength=given.items + 1)
    held_out = [s[count[s] > 0] for s in parts["test"]]
    score = functools.partial(
        auc, held_out=held_out, count=count, window=given.window, seed=0
    )
    tokens = len(items) * given.epochs
    row = {
        "tokens_per_second": tokens / statistics.median(seconds),
        "quality": score(*ours.vectors()),
        "gensim_tokens_per_second": None,
        "quality_gensim": None,
        "speedup_over_gensim": None,
    }
    if gensim_result:
        size = given.items + 1
        h, z = (np.pad(x, ((0, size - len(x)), (0, 0))) for x in gensim_result[1:])
        row["gensim_tokens_per_second"] = tokens / statistics.median(theirs)
        row["quality_gensim"] = score(h, z)
        ratios = [them / us for us, them in zip(seconds, theirs, strict=True)]
        row["speedup_over_gensim"] = statistics.median(ratios)
    return row


def pairs_config(given) -> itemwise.PairsConfig:
    return itemwise.PairsConfig(
        window=given.window,
        num_negatives=given.negatives,
        shared_negatives=given.shared_negatives,
        sharing=given.sharing,
        block=given.block,
    )


def growth(given, sizes: tuple[int, int]) -> dict[str, float]:
    """Tokens a second at two sizes of the catalogue, in turn."""
    trainers = {}
    for size in sizes:
        rng = np.random.default_rng(0)
        items = np.minimum(rng.zipf(1.1, given.tokens), size).astype(np.int32)
        spread = rng.integers(1, size + 1, given.tokens)
        items = np.where(rng.random(given.tokens) < 0.5, items, spread).astype(np.int32)
        offsets = np.append(np.arange(0, len(items), 100), len(items))
        trainers[size] = Ours(
            items,
            offsets,
            num_items=size,
            config=pairs_config(given),
            given=given,
            epochs=1,
        )
    seconds = {size: [] for size in sizes}
    for turn in range(given.rounds + 1):
        for size, ours in trainers.items():
            spent = ours.epochs(1)
            seconds[size] += [spent] if turn else []
    return {
        f"tokens_per_second_{size}": given.tokens / statistics.median(times)
        for size, times in seconds.items()
    }


def main(argv):
    del argv
    given = flags.FLAGS
    row = compare(given)
    if given.large:
        sizes = 50_000, 5_000_000
        row |= growth(given, sizes)
        small, large = (row[f"tokens_per_second_{size}"] for size in sizes)
        row["tokens_ratio_5m_over_50k"] = large / small
    for name, value in row.items():
        print(f"{name:32} {'none' if value is None else f'{value:,.3f}'}")
    print(json.dumps({"bench": "skipgram", **row}))


def define_flags() -> None:
    flags.DEFINE_integer("items", 3_700, "items")
    flags.DEFINE_integer("tokens", 1_000_000, "tokens of all sequences, about")
    flags.DEFINE_integer("width", 64, "d")
    flags.DEFINE_integer("window", 5, "window, at most")
    flags.DEFINE_integer("negatives", 5, "negatives of a pair")
    flags.DEFINE_integer("shared_negatives", 32, "ours: S")
    flags.DEFINE_integer("sharing", 16, "ours: blocks that share them")
    flags.DEFINE_integer("block", 16, "ours: tokens of a block")
    flags.DEFINE_integer("blocks", 256, "ours: blocks of a step")
    flags.DEFINE_float("learning_rate", 3.0, "ours: of row-wise Adagrad")
    flags.DEFINE_integer("epochs", 3, "epochs of both")
    flags.DEFINE_integer("rounds", 3, "timed rounds")
    flags.DEFINE_integer("workers", 2, "gensim's, one a core")
    flags.DEFINE_string("gensim_python", "", "where gensim is; default: here")
    flags.DEFINE_bool("large", False, "also 50 thousand and 5 million items")


if __name__ == "__main__":
    define_flags()
    app.run(main)
