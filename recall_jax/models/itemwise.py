"""What the item-to-item models share: they train on pairs of items, and a user is the
mean of the items they met. Which pairs, their configs say; `pairs/` makes them."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from recall_jax.data.sources import synthetic
from recall_jax.models import layers
from recall_jax.schema import Column, Schema, Table
from recall_jax.types import bounded, choice

CUTS = ("user", "gap", "day", "session", "conversion")


@dataclasses.dataclass
class SequencesConfig:
    """How a user's training events are cleaned and cut.

    `cut`, where a new sequence begins, apart from at each user's first event:

        user        nowhere; his sequence is a set where the log has no order
        gap         after a pause of more than `gap` seconds
        day         at midnight, UTC
        session     where the log's own column "session" changes; the events of a session
                    are together even if another runs meanwhile, and an event without a
                    session (-1, '' or NaN) is alone
        conversion  after a conversion, and after a pause of more than `gap` seconds

    `conversions` are actions; their events make a sequence booked, and no clean-up of
    single events drops them. Where the column "action" holds codes, `action_names` are
    those of codes 0, 1, ...; a code itself ("5") is understood too.

    The clean-up comes in this order, 0 being off: over-active users, stays that are too
    short (an unknown one stays), then each event of the same item as the one before it
    among what is left, at most `repeat_seconds` later.

    `min_length` is of what is left, conversions included. Skip-gram makes no pair of a
    sequence of length 1; booked ones still train the global context of Grbovic and
    Cheng.
    """

    cut: str = choice("user", CUTS)
    gap: int = bounded(3600, 0)  # seconds; Airbnb has 1800
    conversions: tuple[str, ...] = ()  # such as ("buy",)
    action_names: tuple[str, ...] = synthetic.ACTIONS
    repeat_seconds: int = bounded(0, 0)
    min_stay: float = bounded(0.0, 0)  # as the column "dwell" has it
    max_user_events: int = bounded(0, 0)  # training events
    min_length: int = bounded(1, 1)
    oversample: int = bounded(1, 1)  # how many times a booked sequence counts


@dataclasses.dataclass
class PairsConfig:
    """What is a sentence, which pairs it holds, and their negatives."""

    # Or walks over their graph, or a file of walks.
    corpus: str = choice("sequences", ("sequences", "walks", "file"))
    objective: str = choice("skipgram", ("skipgram", "cbow"))
    # Of "set", contexts are drawn from the whole sequence.
    order: str = choice("window", ("window", "set"))
    window: int = bounded(5, 1)  # of a set: half the contexts that a center draws
    # Drawn for each center, from 1 to `window`.
    window_size: str = choice("drawn", ("drawn", "full"))
    block: int = bounded(32, 1)  # centers of a sequence that train together
    num_negatives: int = bounded(5, 1)  # k, of a pair
    shared_negatives: int = bounded(64, 1)  # S, each counting k / S
    sharing: int = bounded(16, 1)  # blocks of a step that share S negatives, at most
    # Beyond, a power of counts is more than a float64 holds.
    alpha: float = bounded(0.75, 0, 10)  # they follow frequency^alpha
    subsample: float = bounded(0.0, 0)  # word2vec's threshold, as 1e-3; 0: off
    # Directed; "co_occurrence" is not, for where there is no order.
    graph: str = choice("transitions", ("transitions", "co_occurrence"))
    walks_per_item: int = bounded(10, 1)  # an epoch
    walk_length: int = bounded(10, 2)  # one item makes no pair
    # Beyond, a walk waits for steps that are hardly ever taken.
    p: float = bounded(1.0, 0.01, 100)  # node2vec's return parameter
    q: float = bounded(1.0, 0.01, 100)  # and its in-out parameter
    # Of the graph's edges, to predict (Wang et al.: 1 / 3); by the seed which, and which
    # pairs without an edge stand beside them.
    removed_share: float = bounded(0.0, 0, below=1)
    removed_seed: int = bounded(0, 0)
    path: str = ""  # of corpus=file, a walk a line
    # The weight of a session's converted item as a context.
    global_context: float = bounded(0.0, 0)
    market: str = ""  # item column of the markets that negatives come from too
    num_market: int = bounded(1, 1)  # of them, a center
    market_weight: float = bounded(1.0, 0)
    sequences: SequencesConfig = dataclasses.field(default_factory=SequencesConfig)


@dataclasses.dataclass
class Config:
    """Width, how pairs are made (`pairs`), and how a user's vector is."""

    every_position: ClassVar[bool] = False
    min_history: ClassVar[int] = 0
    width: int = bounded(64, 1)
    init_scale: float = bounded(0.05, above=0)  # deviation of the tables at the start
    normalize: str = choice("l2", layers.NORMALIZATIONS)  # of item vectors in use
    history_length: int = bounded(50, 1)  # items whose mean is a user's vector
    # Items back at which one counts half; 0: all alike.
    recency: float = bounded(0.0, 0)
    pairs: PairsConfig = dataclasses.field(default_factory=PairsConfig)


def item_column(schema: Schema) -> Column:
    return schema.pick(("item",), side="item")[0]


def own_table(name: str, column: Column, *, width: int) -> Table:
    """A table beside that of the item's id, which reads the ids under its own name."""
    return Table(name, column.rows, width, (name,))


def user_vector(
    vectors: Float[Array, "... h d"], where: Bool[Array, "... h"], *, recency: float
) -> Float[Array, "... d"]:
    """The mean of a history, the most recent last; with a recency, item j from the end
    weighs 2^(-j / recency). Zero where there is none."""
    weight = where.astype(vectors.dtype)
    if recency:
        ago = jnp.arange(where.shape[-1] - 1, -1, -1, dtype=vectors.dtype)
        weight *= jnp.broadcast_to(jnp.exp2(-ago / recency), weight.shape)
    total = jnp.maximum(weight.sum(axis=-1), 1e-12)[..., None]
    return jnp.einsum("...hd,...h->...d", vectors, weight) / total
