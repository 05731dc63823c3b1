"""What `drawn` draws each field from: field -> (values that fit, values at an edge, which
may be refused). Sizes are few, so that programs are compiled once for many draws."""

from recall_jax.losses import negatives, objective
from recall_jax.models import (
    airbnb,
    dssm,
    eges,
    fm,
    item2vec,
    markov,
    mf,
    sequence,
    youtubednn,
)

NAN, HUGE = float("nan"), 2**40
MODELS = (mf, fm, dssm, youtubednn, sequence, markov, item2vec, eges, airbnb)
STREAMED = (mf, fm, dssm, youtubednn, markov)
TOWER = {
    "query": (
        ((), ("user",), ("history",), ("user", "history", "gender"), ("age", "user")),
        (("nobody",), ("",), ("user", "user"), ("item",), ("searched", "user")),
    ),
    "history": (
        (("mean",), ("recency", "mean"), ("gru",), ("cnn",), ("attention",)),
        ((), ("nothing",), ("mean", "mean"), ("self_attention",)),
    ),
    "text": (("mean", "attention", "gru", "cnn"), ("nothing", "")),
    "history_length": ((5, 5, 5, 1), (0, -1, 1000)),
    "history_table": (("own", "shared"), ("nothing", "")),
    "min_history": ((0, 1, 2), (-1, 1000)),
    "id_width": ((4, 4, 8), (0, -1)),
    "feature_width": ((2, 4), (0,)),
    "hidden": (((8,), (), (8, 8)), ((0,), (-1,))),
    "width": ((4,), (0, -4, 1)),
    "activation": (("relu", "tanh", "gelu", "prelu"), ("nothing",)),
    "norm": (("none", "batch", "layer"), ("nothing",)),
    "dropout": ((0.0, 0.2), (1.0, -0.1, NAN)),
    "gates": (("none", "senet"), ("nothing",)),
    "normalize": (("l2", "none"), ("nothing", "")),
    "init_scale": ((0.05, 1.0), (0.0, NAN, 1e30, 1e-30)),
}
ITEM_TOWER = {
    "item": (
        ((), ("item",), ("item", "tags"), ("item", "price", "title"), ("tags",)),
        (("nobody",), ("item", "item"), ("user",), ("title", "title")),
    ),
    "item_hidden": (((8,), ()), ((0,),)),
    "id_dropout": ((0.0, 0.3), (1.0, NAN)),
}
ITEMWISE = {
    "recency": ((0.0, 2.0), (-1.0, NAN, 1e-30, 1e30)),
    "history_length": ((5, 1), (0, -1)),
} | {name: TOWER[name] for name in ("width", "init_scale", "normalize")}
MODEL_FIELDS = {
    mf: {
        "biases": (("none", "item", "both"), ("nothing",)),
        "history_length": ((0, 5), (-1,)),
        "min_history": ((0, 1), (-1, 1000)),
    }
    | {name: TOWER[name] for name in ("width", "init_scale", "normalize")},
    fm: {name: TOWER[name] for name in ("query", "history_length", "min_history")}
    | {"item": ITEM_TOWER["item"], "width": TOWER["width"]}
    | {"init_scale": TOWER["init_scale"]},
    dssm: TOWER | ITEM_TOWER,
    youtubednn: TOWER,
    sequence: {
        "blocks": ((0, 1, 2), (-1,)),
        "heads": ((1, 2), (0, 3)),
        "history_length": ((5,), (0, 1, 2, 1000)),
        "min_history": ((1,), (0, 2, -1)),
        "dropout": TOWER["dropout"],
        "history_table": TOWER["history_table"],
    }
    | {name: TOWER[name] for name in ("width", "init_scale", "normalize")},
    markov: {"history_length": ((1, 5), (0, -1)), "min_history": ((1,), (0, 1000))}
    | {name: TOWER[name] for name in ("width", "init_scale", "normalize")},
    item2vec: ITEMWISE,
    eges: ITEMWISE
    | {
        "kind": (("eges", "ges", "bge"), ("nothing",)),
        "side": (((), ("tags",), ("market",)), (("item",), ("price",), ("nobody",))),
    },
    airbnb: ITEMWISE
    | {
        "cold_market": (("", "market"), ("nobody", "tags", "item")),
        "cold_type": (("",), ("kind", "tags")),
        "cold_price": (("",), ("price", "kind")),
        "cold_distance": (("",), ("price", "market")),
    },
}
PAIRS = {
    "corpus": (("sequences", "walks"), ("file", "nothing")),
    "objective": (("skipgram", "cbow"), ("nothing",)),
    "order": (("window", "set"), ("nothing",)),
    "window": ((2, 5), (0, -1, 1000)),
    "window_size": (("drawn", "full"), ("nothing",)),
    "block": ((4,), (0, 1, 1000)),
    "num_negatives": ((5,), (0, -1)),
    "shared_negatives": ((8,), (0, 1)),
    "sharing": ((16, 3), (0, 1000)),
    "alpha": ((0.75, 0.0), (-1.0, NAN, 1e3)),
    "subsample": ((0.0, 1e-2), (-1.0, NAN, 1e-12, 1e3)),
    "graph": (("transitions", "co_occurrence"), ("nothing",)),
    "walks_per_item": ((2,), (0, -1)),
    "walk_length": ((4,), (1, 0, -1)),
    "p": ((1.0, 0.5), (0.0, -1.0, NAN, 1e-30, 1e30)),
    "q": ((1.0, 2.0), (0.0, NAN, 1e30)),
    "removed_share": ((0.0, 0.3), (1.0, -0.1, NAN, 1e-9, 0.999)),
    "removed_seed": ((0, 1), (-1, HUGE)),
    "path": (("",), ("nowhere.txt",)),
    "global_context": ((0.0, 1.0), (-1.0, NAN, 1e30)),
    "market": (("", "market"), ("nobody", "tags", "price")),
    "num_market": ((1, 2), (0, -1)),
    "market_weight": ((1.0, 0.0), (-1.0, NAN)),
}
SEQUENCES = {
    "cut": (("user", "gap", "day", "session", "conversion"), ("nothing",)),
    "gap": ((1800, 3600), (0, -1, HUGE)),
    "conversions": (((), ("buy",)), (("nothing",), ("",), ("5",), ("click", "buy"))),
    "repeat_seconds": ((0, 60), (-1, HUGE)),
    "min_stay": ((0.0, 1.0), (-1.0, NAN, 1e30)),
    "max_user_events": ((0, 100), (1, -1)),
    "min_length": ((1, 2), (0, 1000)),
    "oversample": ((1,), (0, 5)),
}
NEGATIVES = {
    "kind": (negatives.KINDS, ("nothing", "")),
    "num": ((16, 32), (0, 1, -1, 8)),
    "alpha": ((0.75, 0.0), (-1.0, NAN, 100.0)),
    "correction": (negatives.CORRECTIONS, ("nothing",)),
    "strength": ((1.0, 0.5, 0.0), (-1.0, NAN, 1e30)),
    "mask": (
        (("item",), ("item", "user"), ("item", "history"), ("positives",)),
        ((), ("nothing",), ("history",), ("item", "item")),
    ),
    "mask_length": ((5, 64), (0, 1, -1)),
    "hardest": ((0, 4), (-1, 1000, 1)),
    "own": (negatives.OWN, ("nothing",)),
    "num_own": ((4,), (0, 1, 100)),
    "market": (("market",), ("nobody", "price", "tags", "")),
    "ranks": (((2, 10),), ((10, 2), (1,), (), (0, 1000), (-1, 5), (2, 10, 20))),
    "refresh_every": ((1, 2), (0, -1)),
    "suppress_positives": ((0.0, 1e-2), (-1.0, NAN, 1e-12, 1e30)),
    "suppress_negatives": ((0.0, 1e-2), (-1.0, NAN, 1e-12, 1e30)),
    "frequency": (negatives.FREQUENCIES, ("nothing",)),
    "frequency_rate": ((0.01, 1.0, 0.0), (-1.0, 2.0, NAN)),
    "num_hashes": ((4, 1), (0, 1000)),
    "hash_width": ((1 << 8,), (0, 3, 1, -2)),
}
LOSS = {
    "name": (tuple(objective.LOSSES), ("nothing", "")),
    "temperature": ((0.1, 1.0), (0.0, -1.0, NAN, 1e30, 1e-30, 1e-3)),
    "temperature_kind": (("fixed", "learned"), ("nothing",)),
    "margin": ((0.5, 0.0), (-1.0, NAN, 1e30)),
    "negative_weight": ((1.0, 0.0, 5.0), (-1.0, NAN, 1e38)),
    "calibration": ((0.75, 0.0, 1.0), (-0.1, 1.1, NAN)),
}
OPTIM = {
    "learning_rate": ((2e-3, 1e-1, 0.0), (-1.0, NAN, 1e10, 1e30, 1e-30)),
    "tables": (("lazy_adam", "rowwise_adagrad", "sgd"), ("nothing", "")),
    "tables_lr_scale": ((1.0, 10.0, 0.0), (-1.0, NAN, 1e30)),
    "weight_decay": ((0.0, 1e-2), (-1.0, NAN, 1e30)),
    "schedule": (("constant", "cosine", "linear"), ("nothing",)),
}
TRAIN = {
    "epochs": ((1, 2), (0, -1, 4)),
    "batch_size": ((16,), (0, 1, -1, 100_000, 1000)),
    "eval_every": ((1, 2), (0, 1000, -1)),
    "patience": ((3, 1), (0, -1)),
    "scan_steps": ((5,), (1, 0, 1000, -1)),
    "checkpoint_every": ((0, 1, 3), (-1,)),
    "refit": (("none", "all"), ("nothing",)),
}
EVALUATE = {
    "metrics": (
        (
            ("hr@5", "ndcg@5"),
            ("hr@1", "ndcg@5", "recall@20", "mrr@5", "precision@5"),
            ("ndcg@5", "hr@10"),
        ),
        ((), ("hr@0",), ("hr@1000", "ndcg@5"), ("hr",), ("nothing@5",), ("hr@-1",)),
    ),
    "select_by": (("ndcg@5", "hr@5"), ("ndcg@10", "nothing", "")),
    "seen": (("auto", "removed", "kept"), ("nothing",)),
    "index": (("exact", "approx"), ("scann", "nothing", "")),
    "indexes": (((), ("approx",)), (("scann",), ("nothing",), ("exact", "exact"))),
    "batch_size": ((64,), (0, 1, -1, 7, 100_000)),
    "candidates": (("all", "sampled_uniform", "sampled_popularity"), ("nothing",)),
    "num_candidates": ((20,), (0, 1, 1000, -1)),
    "candidates_seed": ((0, 1), (-1, HUGE)),
}
DATA = {
    "protocol": (("leave_one_out", "temporal", "file_order", "given"), ("nothing", "")),
    "ties": (("file", "shuffled", "both"), ("nothing",)),
    "ties_seed": ((0, 1), (-1, HUGE)),
    "min_user_events": ((0, 5), (-1, 1000)),
    "min_item_events": ((0, 5), (-1, 1000)),
    "valid_share": ((0.1, 0.3), (0.0, 1.0, -0.1, NAN, 1e-9)),
    "valid_seed": ((0, 1), (-1, HUGE)),
    "test_share": ((0.1, 0.3), (0.0, 1.0, NAN, 0.95)),
    "label": (("",), ("grade", "rating", "nothing")),
    "hidden_share": ((0.0, 0.2), (1.0, -0.1, NAN, 1e-9, 0.99)),
    "hidden_seed": ((0, 1), (-1,)),
    "examples_per_user": ((0, 3), (-1, 1000)),
    "examples_seed": ((0, 1), (-1,)),
    "context": (("past", "around"), ("nothing",)),
    "tokens": (("", "query"), ("nothing", "dwell")),
    "tokens_length": ((5,), (0, -1, 1000)),
    "text_buckets": ((64, 0), (1, -1)),
}
SYNTHETIC = {"seed": ((0,), (1, -1)), "session_stay": ((0.75,), (-0.5, 2.0, NAN))}
LOGS = {
    "path": ((), ("nowhere.csv", "")),
    "separator": ((",",), (";", "", "ab")),
    "user": (("user",), ("nobody", "", "item")),
    "item": (("item",), ("nobody", "")),
    "time": (("time", "time", ""), ("nobody", "action")),
    "time_format": (("",), ("ms", "%Y", "nothing")),
    "weight": (("", "weight"), ("nobody", "action", "signed")),
    "rating": (("", "rating"), ("nobody", "action")),
    "action": (("", "action"), ("nobody", "rating")),
    "dwell": (("", "dwell"), ("nobody", "action")),
    "session": (("", "session"), ("nobody", "query")),
    "events": (((), ("query",), ("part",)), (("nobody",), ("rating",), ("time",))),
    "user_columns": (((), ("gender",)), (("nobody",), ("user",))),
    "item_columns": (((), ("tags", "market")), (("nobody",), ("item",))),
    "bags": ((("tags",), ()), (("nobody",), ("query",), ("price",))),
    "list_separator": (("|",), ("", "x")),
    "text": (((), ("title",)), (("nobody",), ("price",), ("tags",))),
    "actions": (((), ("click", "buy")), (("nothing",), ("",), ("shown",))),
    "exposures": (((), ("shown",)), (("nothing",), ("click", "buy", "shown"))),
    "min_rating": ((0.0, 2.0), (-1.0, NAN, 100.0)),
    "min_weight": ((0.0, 0.5), (-1.0, NAN, 100.0)),
    "min_dwell": ((0.0, 1.0), (-1.0, NAN, 1e30)),
}
STREAM = {
    "window_examples": ((100, 1 << 21), (0, 1, 16, -1)),
    "chunk_examples": ((16, 1 << 13), (0, 1, -1)),
    "measured_users": ((10, 0), (-1, 1)),
}
