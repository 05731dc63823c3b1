"""How many negatives, and which, on MovieLens 1M.

    python -m experiments.ablate negatives

Varied about the two-tower model of study `losses`: how many items are drawn, from where,
how large the batch is whose items are the negatives, and hard ones. Epochs are the same
for all, so a larger batch takes fewer steps.
"""

from experiments.common.study import Factor, Study
from experiments.studies import losses

STUDY = Study(
    paper="Yi et al. 2019; Yang et al. 2020; Wang et al. 2020; Xiong et al. 2021",
    question="How many negatives does a two-tower model need, and of which kind?",
    expected="More are better until they are many; mixed negatives beat the batch's alone "
    "(Yang et al.), a queue gives more of them for little (Wang et al.), and hard ones "
    "beat random ones (Xiong et al.).",
    base=losses.STUDY.base,
    factors=(
        Factor(
            "how many, uniform",
            {"256": "negatives.num=256"},
            base="dssm_ml1m:negatives.kind=uniform",
            base_label="1,024",
        ),
        Factor(
            "kind, 1,024 or as said (base: the batch's 1,023)",
            {
                "popularity^0.75": "negatives.kind=popularity",
                "mixed: the batch's and 1,024 uniform": "negatives.kind=mixed",
                "queue of 4,096": "negatives.kind=queue:negatives.num=4096",
                "all items": "negatives.kind=full:negatives.correction=none",
            },
        ),
        Factor(
            "batch (base: 1,024)",
            {"256": "train.batch_size=256", "4,096": "train.batch_size=4096"},
        ),
        Factor(
            "four of an example's own beside the batch",
            {
                "uniform": "negatives.own=uniform",
                "semi-hard, ranks 50 to 300": "negatives.own=semi_hard"
                ":negatives.ranks=[50,300]:negatives.mask=[item,positives]",
            },
        ),
        Factor(
            "the hardest of 1,024 uniform, uncorrected",
            {"32": "negatives.hardest=32"},
            base=losses.UNIFORM + ":negatives.mask=[item,positives]",
            base_label="all 1,024, the user's own items masked",
        ),
    ),
    budget=losses.STUDY.budget,
    seconds=75,
    finding="More uniform negatives help (1,024 over 256 by .011 ndcg@10), but against Yang et "
    "al. mixed ones, and even all items, add nothing to the batch's in so small a "
    "catalogue; at equal epochs a batch of 4,096 loses .019 to one of 1,024. Against Wang "
    "et al. a queue collapses (its old copies take no gradient: negatives.md), and against "
    "Xiong et al. the hardest 32, uncorrected, lose two thirds, while semi-hard ones are "
    "worth .007 for nearly four times the time.",
)
