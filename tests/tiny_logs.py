"""A log of some hundred events with a column of every kind, as CSV and as Parquet."""

import pathlib

import numpy as np

USERS, ITEMS, EVENTS = 40, 30, 600
WORDS = np.array(["red", "blue", "warm", "", "red shoe", "ünïcode ☃", "a b c d e f"])


def write(folder: pathlib.Path) -> None:
    """events, users and items, each as .csv and as .parquet."""
    import polars

    rng = np.random.default_rng(0)
    for name, columns in _tables(rng).items():
        table = polars.DataFrame(columns)
        table.write_csv(folder / f"{name}.csv")
        table.write_parquet(folder / f"{name}.parquet")


def _tables(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    user = np.sort(rng.integers(USERS, size=EVENTS))
    item = np.minimum(rng.geometric(0.1, EVENTS) - 1, ITEMS - 1)
    events = {
        "user": np.char.add("u", user.astype(str)),
        "item": 100 + item,
        "time": 1_600_000_000
        + np.sort(rng.integers(40 * 86_400, size=EVENTS)) // 9 * 9,
        "weight": rng.choice([0.0, 0.5, 1.0, 3.0], EVENTS),
        "signed": rng.normal(size=EVENTS),
        "rating": rng.integers(1, 6, EVENTS),
        "action": rng.choice(["click", "buy", "shown"], EVENTS, p=[0.7, 0.15, 0.15]),
        "dwell": rng.exponential(5, EVENTS),
        "session": user * 10 + rng.integers(3, size=EVENTS),
        "query": rng.choice(WORDS, EVENTS),
        "part": (np.arange(EVENTS) % 5 == 4).astype(int),
        "grade": rng.integers(0, 2, EVENTS),
    }
    users = {
        "user": np.array([f"u{j}" for j in range(USERS)]),
        "gender": rng.choice(["f", "m", ""], USERS),
        "age": np.round(rng.normal(40, 9, USERS), 1),
    }
    items = {
        "item": np.arange(100, 100 + ITEMS),
        "tags": rng.choice(["a|b", "b", "", "c|a|d"], ITEMS),
        "market": rng.choice(["north", "south"], ITEMS),
        "kind": rng.choice(["x", "y", "z"], ITEMS),
        "price": np.round(rng.exponential(20, ITEMS), 2),
        "title": rng.choice(WORDS, ITEMS),
    }
    return {"events": events, "users": users, "items": items}
