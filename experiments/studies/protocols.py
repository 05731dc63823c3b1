"""How far a protocol alone moves the figures of one model, and of models that only count.

    python -m experiments.ablate protocols

One model on one log, MovieLens 1M; what is varied is what is held out and what a target is
ranked among. Below the first row of each protocol stand the baselines under it: read how
their order changes, not only the model's figure. Sampled metrics are here to be seen
through (Krichene and Rendle 2020), and no other study has them.
"""

from experiments.common.study import Factor, Study
from experiments.studies import losses

WHOLE = "data.min_user_events=0:data.min_item_events=0"

STUDY = Study(
    paper="Krichene and Rendle 2020; Rendle et al. 2020",
    question="How much does a protocol alone move a figure?",
    expected="Sampled metrics multiply every figure and may turn the order of models; "
    "keeping seen items costs, shuffled ties cost a bigram and a model alike, and file "
    "order flatters both.",
    base=losses.STUDY.base,
    factors=(
        Factor("ties in time (base: file order)", {"shuffled": "data.ties=shuffled"}),
        Factor("seen items (base: removed)", {"kept": "evaluate.seen=kept"}),
        Factor(
            "a target ranked among 100 others (base: all items)",
            {
                "drawn uniformly": "evaluate.candidates=sampled_uniform",
                "drawn by popularity": "evaluate.candidates=sampled_popularity",
            },
        ),
        Factor(
            "split (base: each user's last item)",
            {
                "one cut in time": "data.protocol=temporal",
                "rows as in the file, seen items kept": "data.protocol=file_order:"
                + WHOLE,
            },
        ),
    ),
    budget=losses.STUDY.budget,
    seconds=60,
    finding="The same model has ndcg@10 .156 as it stands, .149 with ties shuffled, .112 "
    "with seen items kept, .321 in the order of the file, and .578 or .440 among "
    "100 sampled items. Orders turn as well: among items drawn uniformly EASE "
    "passes the bigram in hr@10 (.678 and .644), of which it has half among all "
    "items (.109 and .214), and after one cut in time popularity (.258) and EASE "
    "(.261) are above the model (.179), for all that follows is wanted there, not "
    "the next watch.",
)
