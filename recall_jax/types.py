"""Words shared by every room: axis letters, columns, batches, errors, rules of fields.

Axis letters, as they stand in jaxtyping signatures everywhere:

    b  examples of a batch            n  negatives of an example, or candidates
    d  embedding width                h  history length (last column: most recent)
    m  values of a multi-valued field V  rows of a table, or catalogue items
    q  queries of a search            k  cut-off

Ids. Raw ids are any string or integer. Inside, an item or a user is its *catalogue
id*: 0 is padding, 1..V are those with training events by falling frequency, those
without any follow. A *look-up id* is what a table is indexed with: the catalogue id,
or V + 1, the one unknown row, for everything without training events.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, get_args, get_origin

import jax
from jaxtyping import Array, Float, Int

Columns = dict[str, Array]
"""Named columns that share their leading axes: look-up ids [b] or [b, m], 0 padding,
or floats [b] (dense features)."""


class Batch(NamedTuple):
    """What one step trains on. `query` is what the query tower reads; the rest is raw.

    Of a model over sequences a row of `query` holds h examples, [b / h, h], and b counts
    them all, row after row."""

    query: Columns
    user: Int[Array, "b"]  # catalogue id of the user
    item: Int[Array, "b"]  # catalogue id of the positive
    weight: Float[Array, "b"]
    label: Float[Array, "b"]  # 1 where the data has no labels
    position: Int[Array, "b"]  # in the flat events; the user's history stands before it


class Model(Protocol):
    """Two functions into one space; the score is their inner product."""

    def query(self, batch: Columns) -> Float[Array, "... d"]: ...

    def item(self, items: Columns) -> Float[Array, "... d"]: ...


class InputError(ValueError):
    """A mistake in a file, a field or a flag; its text says how to mend it."""


class MissingData(InputError):
    """There are no data where they should be, or none that can be read as they are."""


Key = jax.Array
Hypers = dict[str, Array]
"""Traced floats (learning rate, temperature, ...): changing one does not recompile."""


def unknown(what: str, name: Any, names: Iterable[str]) -> InputError:
    """The error for a name that there is not; it lists those that there are."""
    return InputError(f"unknown {what} {name!r}{nearest(name, names)}")


def nearest(name: Any, names: Iterable[str]) -> str:
    """What to offer after an unknown name."""
    names = list(names)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    offer = f"did you mean {close[0]!r}? " if close else ""
    return f"; {offer}there are: {', '.join(names) or 'none'}"


def choice(
    default: Any,
    names: Iterable[str] | Callable[[], Iterable[str]] | None = None,
    *,
    filled: bool = False,
) -> Any:
    """A field of a config that is one of `names`, of a tuple each of its entries; a
    `filled` one has at least one entry."""
    rule = {"filled": filled} if names is None else {"filled": filled, "names": names}
    return dataclasses.field(default=default, metadata=rule)


def bounded(
    default: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> Any:
    """A field that is a number, or a tuple of numbers, within bounds."""
    bounds = {"least": least, "most": most, "above": above, "below": below}
    return dataclasses.field(default=default, metadata=bounds)


LARGEST = 2**31 - 1  # of a number that is no seed: what an array's index holds
SEED = 0, 2**32 - 1  # bounds of one


def check_fields(config: Any, flag: str) -> None:
    """Raise InputError where a value of a config, or of a group in it, is not of its
    field's type, not one of its names or out of its bounds; `flag` names the config, as
    "--config.loss"."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{flag}.{field.name}"
        if isinstance(value, type):
            raise InputError(f"{name} is a class; make one: {value.__qualname__}()")
        if dataclasses.is_dataclass(value):
            check_fields(value, name)
        else:
            _check_field(value, field, name)


def _check_field(value: Any, field: dataclasses.Field, flag: str) -> None:
    if not _fits(value, field.type):
        kind = getattr(field.type, "__name__", field.type)
        kind = field.type if get_args(field.type) else kind
        raise InputError(
            f"{flag} should be {kind}, not {value!r} ({type(value).__name__})"
        )
    rule = field.metadata
    names = rule.get("names")
    names = names() if callable(names) else names
    if rule.get("filled") and not value:
        raise InputError(f"{flag} is empty; it needs at least one entry")
    for entry in value if isinstance(value, tuple) else (value,):
        if names is not None and entry not in names:
            raise unknown(flag, entry, names)
        if isinstance(entry, float) and not math.isfinite(entry):
            raise InputError(f"{flag} is {value}; it must be a finite number")
        if "least" in rule and not _within(entry, **rule):
            raise InputError(f"{flag} is {value}; it must be {_in_words(**rule)}")
        seed = field.name.endswith("seed")
        if isinstance(entry, int) and not seed and abs(entry) > LARGEST:
            raise InputError(f"{flag} is {value}; it must be at most {LARGEST}")


def _within(x: float, *, least, most, above, below) -> bool:
    return least <= x <= most and above < x < below


def _in_words(*, least, most, above, below) -> str:
    if least > -math.inf and most < math.inf:
        return f"from {least} to {most}"
    low = f"at least {least}" if least > -math.inf else f"above {above}"
    return low if below == math.inf else f"{low} and below {below}"


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:  # a group of fields, of a source or a model
        return False
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return isinstance(value, tuple) and all(_fits(entry, inner) for entry in value)
    kind = (int, float) if kind is float else kind
    return isinstance(value, kind)
