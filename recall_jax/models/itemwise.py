"""What the item-to-item models share: they train on pairs of items, and a user is the
mean of the items they met. Which pairs, their configs say; `pairs/` makes them."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from recall_jax.data.sources import synthetic
from recall_jax.schema import Column, Schema, Table
from recall_jax.types import InputError


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

    cut: str = "user"
    gap: int = 3600  # seconds; Airbnb has 1800
    conversions: tuple[str, ...] = ()  # such as ("buy",)
    action_names: tuple[str, ...] = synthetic.ACTIONS
    repeat_seconds: int = 0
    min_stay: float = 0.0  # as the column "dwell" has it
    max_user_events: int = 0  # training events
    min_length: int = 1
    oversample: int = 1  # how many times a booked sequence counts


@dataclasses.dataclass
class PairsConfig:
    """What is a sentence, which pairs it holds, and their negatives."""

    corpus: str = "sequences"  # "walks" over their graph; "file" of walks
    objective: str = "skipgram"  # or "cbow"
    order: str = "window"  # "set": contexts drawn from the whole sequence
    window: int = 5  # of a set: half the contexts that a center draws
    window_size: str = "drawn"  # from 1 to `window` for each center; or "full"
    block: int = 32  # centers of a sequence that train together
    num_negatives: int = 5  # k, of a pair
    shared_negatives: int = 64  # S, each counting k / S
    sharing: int = 16  # blocks of a step that share S negatives, at most
    alpha: float = 0.75  # they follow frequency^alpha
    subsample: float = 0.0  # word2vec's threshold, as 1e-3; 0: off
    graph: str = (
        "transitions"  # directed; "co_occurrence": not, where there is no order
    )
    walks_per_item: int = 10  # an epoch
    walk_length: int = 10
    p: float = 1.0  # node2vec's return parameter
    q: float = 1.0  # and its in-out parameter
    removed_share: float = 0.0  # of the graph's edges, to predict; Wang et al.: 1 / 3
    removed_seed: int = 0  # which, and which pairs without an edge stand beside them
    path: str = ""  # of corpus=file, a walk a line
    global_context: float = 0.0  # weight of a session's converted item as a context
    market: str = ""  # item column of the markets that negatives come from too
    num_market: int = 1  # of them, a center
    market_weight: float = 1.0
    sequences: SequencesConfig = dataclasses.field(default_factory=SequencesConfig)


@dataclasses.dataclass
class Config:
    """Width, how pairs are made (`pairs`), and how a user's vector is."""

    every_position: ClassVar[bool] = False
    min_history: ClassVar[int] = 0
    width: int = 64
    init_scale: float = 0.05  # standard deviation of the tables at the start
    normalize: str = "l2"  # of item vectors in use; or "none"
    history_length: int = 50  # items whose mean is a user's vector
    recency: float = 0.0  # items back at which one counts half; 0: all count alike
    pairs: PairsConfig = dataclasses.field(default_factory=PairsConfig)


def check(config: Config) -> None:
    """Raise InputError for what means nothing."""
    if config.history_length < 1 or config.recency < 0:
        raise InputError(
            f"model.history_length {config.history_length} must be at least 1 and "
            f"model.recency {config.recency:g} at least 0: a user is the mean of his "
            "history"
        )


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
