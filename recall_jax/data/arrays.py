"""A split log as arrays on the device: batches are gathered, never materialised."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from recall_jax.types import Batch, Columns, Key


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "items",
        "weights",
        "offsets",
        "example_user",
        "example_position",
        "user_columns",
        "item_columns",
        "item_count",
        "train_stop",
        "example_item",
        "example_label",
        "shown_items",
        "shown_offsets",
        "tokens",
        "token_offsets",
        "age",
        "counted",
    ],
    meta_fields=[
        "num_items",
        "known_items",
        "known_users",
        "history_length",
        "span",
        "context",
        "tokens_length",
    ],
)
@dataclasses.dataclass(frozen=True)
class Events:
    """Everything a step or an evaluation gathers from, as one pytree.

    Events lie flat, sorted by user, then time: user u's are offsets[u]:offsets[u + 1],
    those that train end at train_stop[u]. An example is (user, position); its history is
    what stands before the position, its item what stands there, unless `example_item`
    says otherwise. What was shown to u and passed over, while he trained, is
    shown_items[shown_offsets[u]:shown_offsets[u + 1]].
    """

    items: Int[Array, "events"]  # catalogue ids
    weights: Float[Array, "events"] | None
    offsets: Int[Array, "users_and_2"]
    example_user: Int[Array, "examples"]  # training examples
    example_position: Int[Array, "examples"]
    user_columns: Columns  # by catalogue id of the user
    item_columns: Columns  # by catalogue id of the item
    item_count: Float[Array, "V_and_1"]  # training examples of each item
    num_items: int  # V, the catalogue
    known_items: int  # those with training events: ids 1..known_items
    known_users: int
    history_length: int  # h
    train_stop: Int[Array, "users_and_1"] | None = None
    example_item: Int[Array, "examples"] | None = None  # None: the item at its position
    example_label: Float[Array, "examples"] | None = None  # None: all 1
    shown_items: Int[Array, "shown"] | None = None  # None: the log has no exposures
    shown_offsets: Int[Array, "users_and_2"] | None = None
    tokens: Int[Array, "total"] | None = None  # look-up ids of searched tokens
    token_offsets: Int[Array, "events_and_1"] | None = None
    age: Float[Array, "events"] | None = None  # before the end of training
    counted: Int[Array, ""] | None = None  # examples from here on have weight 0
    span: int = 1  # examples a row of a batch holds; see `sequences`
    context: str = "past"  # log.CONTEXTS
    tokens_length: int = 0

    @property
    def num_rows(self) -> int:
        """Rows that an epoch is made of: examples, or spans of them that may begin at
        any of the first `span` examples."""
        return (len(self.example_user) - self.span + 1) // self.span

    def query(self, user: Int[Array, "b"], position: Int[Array, "b"]) -> Columns:
        """Columns of the query tower in use; `history` holds the h items before
        position, `searched` the tokens of the events before it, the most recent last,
        padded with 0 on the left; `example_age` is 0: now."""
        columns = {name: c[user] for name, c in self.user_columns.items()}
        columns["user"] = jnp.minimum(user, self.known_users + 1)
        if self.history_length:
            ids = self.past(user, position, length=self.history_length)
            columns["history"] = jnp.minimum(ids, self.known_items + 1)
        if self.tokens is not None:
            columns["searched"] = self.searched(user, position)
        if self.age is not None:
            columns["example_age"] = jnp.zeros(user.shape)
        return columns

    def training_query(
        self, user: Int[Array, "b"], position: Int[Array, "b"]
    ) -> Columns:
        """The same for training examples, with the age that each has."""
        columns = self.query(user, position)
        if self.age is not None:
            columns["example_age"] = self.age[position]
        if self.history_length and self.context == "around":
            ids = self.around(user, position, length=self.history_length)
            columns["history"] = jnp.minimum(ids, self.known_items + 1)
        return columns

    def searched(
        self, user: Int[Array, "b"], position: Int[Array, "b"]
    ) -> Int[Array, "b t"]:
        """The last tokens that each user searched before position."""
        first = self.token_offsets[self.offsets[user]]
        index = self.token_offsets[position][:, None]
        index = index + jnp.arange(-self.tokens_length, 0)[None, :]
        mine = index >= first[:, None]
        return jnp.where(mine, self.tokens[jnp.maximum(index, 0)], 0)

    def around(
        self, user: Int[Array, "b"], position: Int[Array, "b"], *, length: int
    ) -> Int[Array, "b length"]:
        """Catalogue ids of a user's training events on both sides of position, without
        it, in their order, padded with 0 on the left."""
        begin, stop = self.offsets[user], self.train_stop[user]
        last = jnp.maximum(position + (length + 1) // 2, begin + length)
        last = jnp.minimum(last, stop - 1)[:, None]
        index = last + jnp.arange(1 - length, 1)[None, :]
        index = jnp.where(index <= position[:, None], index - 1, index)
        mine = index >= begin[:, None]
        return jnp.where(mine, self.items[jnp.maximum(index, 0)], 0)

    def past(
        self, user: Int[Array, "b"], position: Int[Array, "b"], *, length: int
    ) -> Int[Array, "b length"]:
        """Catalogue ids of a user's last events before position, the most recent last,
        padded with 0 on the left."""
        index = position[:, None] + jnp.arange(-length, 0)[None, :]
        mine = index >= self.offsets[user][:, None]
        return jnp.where(mine, self.items[jnp.maximum(index, 0)], 0)

    def draw_shown(
        self, key: Key, user: Int[Array, "b"], *, num: int
    ) -> tuple[Int[Array, "b num"], Bool[Array, "b num"]]:
        """Catalogue ids of what each user was shown and passed over, drawn with
        replacement, and whether there is any."""
        first = self.shown_offsets[user]
        size = (self.shown_offsets[user + 1] - first)[:, None]
        step = jax.random.randint(key, (len(user), num), 0, jnp.maximum(size, 1))
        at = jnp.minimum(first[:, None] + step, self.shown_items.size - 1)
        return self.shown_items[at], jnp.broadcast_to(size > 0, at.shape)

    def item(self, ids: Int[Array, "n"]) -> Columns:
        """Columns of the item tower at catalogue ids."""
        columns = {name: c[ids] for name, c in self.item_columns.items()}
        columns["item"] = jnp.minimum(ids, self.known_items + 1)
        return columns

    def batch(self, example: Int[Array, "b"]) -> Batch:
        """The training examples at these positions of example_user; with a span, the
        rows that begin there."""
        if self.span > 1:
            return self.sequences(example)
        user, position = self.example_user[example], self.example_position[example]
        item, weight, label = self.items[position], self.weights, self.example_label
        if self.example_item is not None:
            item = self.example_item[example]
        ones = jnp.ones(example.shape)
        weight = ones if weight is None else weight[position]
        if self.counted is not None:
            weight = jnp.where(example < self.counted, weight, 0.0)
        label = ones if label is None else label[example]
        query = self.training_query(user, position)
        return Batch(query, user, item, weight, label, position)

    def sequences(self, first: Int[Array, "b"]) -> Batch:
        """Rows of `span` examples, the ones at first, first + 1, ... of example_user,
        whatever users they are of: b x span examples, none of them padding.

        Query columns are [b, span]: `history` has the item before each example and
        `segment` its user, across whom nothing may look.
        """
        at = (first[:, None] + jnp.arange(self.span)[None, :]).ravel()
        user, position = self.example_user[at], self.example_position[at]
        before = jnp.minimum(self.items[position - 1], self.known_items + 1)
        query = {"history": before, "segment": user}
        ones = jnp.ones(at.shape)
        return Batch(
            query={name: x.reshape(-1, self.span) for name, x in query.items()},
            user=user,
            item=self.items[position],
            weight=ones if self.weights is None else self.weights[position],
            label=ones,
            position=position,
        )
