"""Where skip-gram's pairs come from: blocks of sequences, or of walks over their graph.

An epoch is every token of the corpus as a center once; walks are drawn anew each time,
in the step that trains on them.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from recall_jax.data.arrays import Events
from recall_jax.data.prepared import Data
from recall_jax.evaluate import metrics
from recall_jax.losses import negatives, sampling
from recall_jax.models.itemwise import PairsConfig
from recall_jax.pairs import graph as graph_lib
from recall_jax.pairs import sequences, walks
from recall_jax.types import InputError, Key, check_fields


class PairData(NamedTuple):
    """What a step on pairs reads and never writes.

    Tokens lie flat behind `block + window` of padding; segment[t] is the sequence of
    token t, -1 of padding, and sequence s holds start[s]:start[s + 1].
    """

    dataset: Events
    sampler: sampling.Sampler
    tokens: Int[Array, "tokens"] | None = None  # None: the corpus is of walks
    segment: Int[Array, "tokens"] | None = None
    start: Int[Array, "s_and_1"] | None = None
    booked: Int[Array, "s"] | None = None
    keep: Float[Array, "V_and_1"] | None = None
    graph: graph_lib.ItemGraph | None = None
    market: sampling.Grouped | None = None


class Corpus(NamedTuple):
    """A source, and the rows that an epoch is made of, each of `span` centers."""

    source: PairData
    num_rows: int
    span: int
    described: str  # one line for people


class Block(NamedTuple):
    """Catalogue ids of g blocks of t centers and c contexts, and which pairs count."""

    center: Int[Array, "g t"]
    context: Int[Array, "g c"]
    pairs: Bool[Array, "g t c"]
    negative: Int[Array, "n s"]  # of n groups of g / n blocks
    booked: Int[Array, "g t"] | None = None  # of a center's session; 0: none
    market: Int[Array, "g t m"] | None = None
    in_market: Bool[Array, "g t m"] | None = None  # whether there is any


def make_corpus(data: Data, config: PairsConfig) -> Corpus:
    """Sequences of the training events, or the graph of them, ready for the device."""
    check(config)
    item_sequences = (
        sequences.read_walks(pathlib.Path(config.path), data.vocabularies["item"])
        if config.corpus == "file"
        else sequences.make(data, config.sequences)
    )
    if not item_sequences.ordered and _heeds_order(config):
        remedy = "graph=co_occurrence" if config.corpus == "walks" else "order=set"
        raise InputError(
            f"{data.source}: nothing tells the order within a sequence; set "
            f"--config.model.pairs.{remedy}"
        )
    count = np.bincount(item_sequences.items, minlength=data.dataset.num_items + 1)[1:]
    source = PairData(
        data.dataset,
        sampling.popularity(count, alpha=config.alpha),
        keep=keep_of(count, threshold=config.subsample),
        market=_markets(config, data, count),
    )
    if config.corpus == "walks":
        return on_walks(config, source, item_sequences, data=data)
    return on_sequences(config, source, item_sequences)


def check(config: PairsConfig) -> None:
    """Raise InputError for names and sizes that mean nothing."""
    check_fields(config, "--config.model.pairs")
    problems = {
        "model.pairs.corpus=file needs the file, a walk a line; name it with "
        "--config.model.pairs.path": config.corpus == "file" and not config.path,
        "model.pairs.global_context is of converted sessions, which only "
        "model.pairs.corpus=sequences has; set it to 0": config.global_context > 0
        and config.corpus != "sequences",
        "model.pairs.removed_share is of a graph's edges, which only "
        "model.pairs.corpus=walks has; set it to 0": config.removed_share > 0
        and config.corpus != "walks",
        "model.pairs.objective=cbow has no terms for conversions and markets; take "
        "skipgram": config.objective == "cbow"
        and bool(config.global_context or config.market),
    }
    for text, wrong in problems.items():
        if wrong:
            raise InputError(text)


def _heeds_order(config: PairsConfig) -> bool:
    if config.corpus == "walks":
        return config.graph == "transitions"
    return config.order == "window"


def keep_of(count: np.ndarray, *, threshold: float) -> Array | None:
    if threshold <= 0:
        return None
    keep = sampling.keep_probability(np.maximum(count, 1), threshold=threshold)
    return jnp.asarray(np.append(0.0, keep), jnp.float32)


def _markets(
    config: PairsConfig, data: Data, count: np.ndarray
) -> sampling.Grouped | None:
    if not config.market:
        return None
    weight = sampling.popularity_weight(count, alpha=config.alpha)
    field = "model.pairs.market"
    return negatives.by_market(data, config.market, weight=weight, field=field)


def on_sequences(
    config: PairsConfig, source: PairData, item_sequences: sequences.Sequences
) -> Corpus:
    """Rows may begin anywhere in the first padding, so that over the epochs a token
    stands anywhere in its block."""
    head, tail = config.block + config.window, 2 * config.block + config.window
    length = np.diff(item_sequences.offsets)
    segment = np.repeat(np.arange(len(length), dtype=np.int32), length)
    if config.order == "set":
        longest = int(length.max())
        if longest > 1 << 24:
            raise InputError(
                f"a sequence has {longest:,} items; 16,777,216 is the most"
            )
    source = source._replace(
        tokens=jnp.asarray(np.pad(item_sequences.items, (head, tail))),
        segment=jnp.asarray(np.pad(segment, (head, tail), constant_values=-1)),
        start=jnp.asarray(item_sequences.offsets + head, jnp.int32),
        booked=jnp.asarray(item_sequences.booked, jnp.int32),
    )
    num_rows = -(-len(item_sequences.items) // config.block) + 1
    booked = np.count_nonzero(item_sequences.booked)
    text = f"{len(length):,} sequences of {len(item_sequences.items):,} items"
    text += f", {booked:,} of them with a conversion" if booked else ""
    return Corpus(source, num_rows, config.block, text)


class Links(NamedTuple):
    """Pairs of catalogue ids to tell apart: edges removed from the graph, in both
    directions, and as many random pairs of its nodes that never had one."""

    removed: Int[np.ndarray, "m 2"]
    non_edges: Int[np.ndarray, "m 2"]


def on_walks(
    config: PairsConfig,
    source: PairData,
    item_sequences: sequences.Sequences,
    *,
    data: Data,
) -> Corpus:
    """Walks on the graph without the edges that are removed."""
    graph, links = _make_graph(config, item_sequences, data=data)
    num_rows = data.dataset.known_items * config.walks_per_item
    kind = "directed" if config.graph == "transitions" else "undirected"
    text = f"{kind} graph of {data.dataset.known_items:,} items"
    text += f", {len(graph.target):,} edges"
    text += f", {len(links.removed):,} pairs' removed" if links else ""
    source = source._replace(graph=jax.device_put(graph))
    return Corpus(source, num_rows, config.walk_length, text)


def make_links(data: Data, config: PairsConfig) -> Links:
    """What `on_walks` removed, and the pairs to tell it from: the same each time."""
    if not config.removed_share:
        raise InputError(
            "nothing was removed; set model.pairs.removed_share, as to 0.33"
        )
    check(config)
    item_sequences = sequences.make(data, config.sequences)
    return _make_graph(config, item_sequences, data=data)[1]


def _make_graph(
    config: PairsConfig, item_sequences: sequences.Sequences, *, data: Data
) -> tuple[graph_lib.ItemGraph, Links | None]:
    """The graph to train on, and the links removed from it."""
    make = getattr(graph_lib, config.graph)
    whole = make(
        item_sequences.items,
        item_sequences.offsets,
        num_nodes=data.dataset.num_items + 1,
    )
    if not len(whole.target):
        raise InputError(
            f"{data.source}: no two items follow each other in a sequence, so there is "
            "nothing to walk on; widen model.pairs.sequences.gap or cut=user"
        )
    if not config.removed_share:
        return whole, None
    share, seed = config.removed_share, config.removed_seed
    rest, removed = graph_lib.split_edges(whole, share, seed, unit="pair")
    if not (len(removed) and len(rest.target)):
        raise InputError(
            f"model.pairs.removed_share {share:g} of {len(whole.target):,} edges leaves "
            "none to predict, or none to walk on; set it nearer to 0.33"
        )
    try:
        non_edges = graph_lib.random_non_edges(whole, len(removed), seed)
    except InputError as problem:
        raise InputError(
            f"model.pairs.removed_share {share:g} sets as many pairs without an edge "
            f"beside the {len(removed):,} that it removes: {problem}; lower it, or set "
            "it to 0"
        ) from problem
    return rest, Links(removed, non_edges)


def link_auc(
    links: Links, score: Callable[[Int[np.ndarray, "m 2"]], Float[np.ndarray, "m"]]
) -> dict[str, float]:
    """How often a removed edge scores above a pair without one, and how many there are
    (Wang et al. 2018)."""
    auc = metrics.auc(score(links.removed), score(links.non_edges))
    return {"auc": auc, "edges": len(links.removed)}


def draw(
    config: PairsConfig, source: PairData, example: Int[Array, "g"], key: Key
) -> Block:
    """The blocks of these rows: tokens, windows, negatives."""
    keys = jax.random.split(key, 5)
    if config.corpus == "walks":
        node = 1 + example // config.walk_length % source.dataset.known_items
        context = walks.walk(
            source.graph,
            keys[0],
            node,
            length=config.walk_length,
            p=config.p,
            q=config.q,
        )
        segment, center = jnp.where(context > 0, 0, -1), slice(None)
    else:
        at = example[:, None] + jnp.arange(config.block + 2 * config.window)[None]
        segment = source.segment[at]
        context = _tokens(config, source, keys[0], at=at, segment=segment)
        center = slice(config.window, config.window + config.block)
    pairs = _pairs(config, source, keys[1:3], context, segment=segment, center=center)
    groups = num_groups(len(example), config.sharing)
    negative = source.sampler.draw(keys[3], shape=(groups, config.shared_negatives))
    block = Block(context[:, center], context, pairs, negative)
    if config.global_context:
        mine = segment[:, center]
        booked = jnp.where(mine >= 0, source.booked[jnp.maximum(mine, 0)], 0)
        block = block._replace(booked=booked)
    if source.market is None:
        return block
    market, in_market = source.market.draw(
        keys[4], block.center.ravel(), num=config.num_market
    )
    shape = (*block.center.shape, config.num_market)
    return block._replace(
        market=market.reshape(shape), in_market=in_market.reshape(shape)
    )


def num_groups(blocks: int, sharing: int) -> int:
    """The fewest equal groups of at most `sharing` blocks.

    >>> num_groups(128, 16), num_groups(100, 16), num_groups(8, 16)
    (8, 10, 1)
    """
    return next(n for n in range(-(-blocks // sharing), blocks + 1) if not blocks % n)


def _tokens(config: PairsConfig, source: PairData, key: Key, *, at, segment):
    """The tokens at these places; of a set any of their sequence: then a center meets
    each of the others as often, (L - 1) / L times in all, as the paper has it."""
    if config.order == "window":
        return source.tokens[at]
    first = source.start[jnp.maximum(segment, 0)]
    size = source.start[jnp.maximum(segment, 0) + 1] - first
    step = jnp.floor(jax.random.uniform(key, at.shape) * size).astype(jnp.int32)
    token = source.tokens[first + jnp.minimum(step, size - 1)]
    return jnp.where(segment >= 0, token, 0)


def _pairs(config: PairsConfig, source: PairData, keys, context, *, segment, center):
    """Which contexts are within the window of which centers. The window is counted over
    tokens that sub-sampling keeps, as far as they lie in the block."""
    is_kept = segment >= 0
    if source.keep is None:
        place = jnp.broadcast_to(jnp.arange(context.shape[1])[None], context.shape)
    else:
        is_kept &= jax.random.uniform(keys[0], context.shape) < source.keep[context]
        place = jnp.cumsum(is_kept, axis=1)
    mine = place[:, center]
    apart = jnp.abs(mine[:, :, None] - place[:, None, :])
    window = config.window
    if config.window_size == "drawn":
        window = jax.random.randint(keys[1], mine.shape, 1, window + 1)[:, :, None]
    pairs = (apart > 0) & (apart <= window)
    pairs &= segment[:, center, None] == segment[:, None, :]
    pairs &= is_kept[:, center, None] & is_kept[:, None, :]
    if config.order == "set":
        pairs &= context[:, center, None] != context[:, None, :]
    return pairs
