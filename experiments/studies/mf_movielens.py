"""Matrix factorisation's negatives and losses on MovieLens 1M.

    python -m experiments.ablate mf_movielens

Varied about a full softmax: what is drawn, how it is corrected, and what it costs. With
one seed or three a row, as BUILD_NOTES.md, record 8, has them.
"""

from experiments.common.study import Factor, Study

BASE = "mf_ml1m"
DRAWN = "negatives.num=1024:negatives.correction=positive_excluded:negatives.kind"
BATCH = "negatives.kind=in_batch:negatives.correction=positive_excluded"
UNCORRECTED = "negatives.kind=uniform:negatives.num=1024"
HARD = "negatives.mask=[item,positives]"

STUDY = Study(
    paper="Yi et al. 2019; Yang et al. 2020; Wang et al. 2020; Mao et al. 2021",
    question="Which negatives and which loss does matrix factorisation want on MovieLens 1M?",
    expected="Corrected samples come near the softmax over all items; hard negatives and a "
    "queue help, as their papers say of other models; squared error ranks worse.",
    base=BASE,
    factors=(
        Factor(
            "negatives (base: all items)",
            {
                "1,024 uniform": f"{DRAWN}=uniform",
                "1,024 by popularity^0.75": f"{DRAWN}=popularity:negatives.alpha=0.75",
                "1,024 log-uniform": f"{DRAWN}=log_uniform",
                "the batch's": BATCH,
                "the batch's and 1,024 uniform": f"{DRAWN}=mixed",
                "a queue of 4,096": f"{DRAWN}=queue:negatives.num=4096",
                "the batch's and four of the positive's year": BATCH
                + ":negatives.own=market:negatives.market=year",
                "the batch's and four of ranks 50 to 300": BATCH
                + f":negatives.own=semi_hard:negatives.ranks=[50,300]:{HARD}",
                "the hardest 32 of 1,024 uniform": UNCORRECTED
                + f":negatives.hardest=32:{HARD}",
                "the batch's, suppressed by frequency, temperature learned": BATCH
                + ":negatives.mask=[item,user,history]"
                ":negatives.suppress_positives=0.001:negatives.suppress_negatives=0.001"
                ":negatives.frequency=sketch:negatives.frequency_rate=0.001"
                ":loss.temperature_kind=learned",
            },
        ),
        Factor(
            "loss, 1,024 uniform negatives, uncorrected",
            {
                "squared, inner product with biases": "loss.name=squared"
                ":loss.negative_weight=8:loss.temperature=1:model.normalize=none"
                ":model.biases=both",
                "cosine contrastive": "loss.name=cosine_contrastive:loss.margin=0.4"
                ":loss.negative_weight=100:loss.temperature=0.07",
            },
            base=f"{BASE}:{UNCORRECTED}",
            base_label="softmax",
        ),
    ),
    budget="evaluate.indexes=[]:evaluate.metrics=[hr@10,ndcg@10,recall@20]",
    seconds=90,
)
