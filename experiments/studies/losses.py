"""Loss, correction, temperature and normalisation of a two-tower model on MovieLens 1M.

    python -m experiments.ablate losses

Varied about a DSSM with in-batch negatives: what is taken off for how negatives were
drawn, the temperature, cosine or inner product, all items in place of the batch's; and,
with uniform negatives, which need no correction and so serve every loss, the loss.
Two epochs and the last 20 items of a history, for time; the config has six and 50.
"""

from experiments.common.study import Factor, Study

UNIFORM = "dssm_ml1m:negatives.kind=uniform:negatives.correction=none"

STUDY = Study(
    paper="Yi et al. 2019; Huang et al. 2013; loss by loss as cited in losses.py",
    question="Which loss, correction, temperature and normalisation does a two-tower "
    "model want?",
    expected="Yi et al.: the log-q correction of in-batch negatives is worth much, "
    "normalisation and a temperature well below 1 too. Huang et al.: softmax over sampled "
    "negatives is enough; a listwise loss beats pointwise ones.",
    base="dssm_ml1m:negatives.kind=in_batch:negatives.correction=positive_excluded",
    factors=(
        Factor(
            "correction (base: positive excluded)",
            {
                "none": "negatives.correction=none",
                "log q, hits left in (Yi et al.)": "negatives.correction=log_q"
                ":negatives.mask=[]",
                "sampled softmax's": "negatives.correction=sampled",
            },
        ),
        Factor(
            "temperature (base: 0.07)",
            {
                "0.03": "loss.temperature=0.03",
                "0.15": "loss.temperature=0.15",
                "learned from 0.07": "loss.temperature_kind=learned",
            },
        ),
        Factor(
            "normalisation (base: L2)",
            {"inner product": "model.normalize=none:loss.temperature=1"},
        ),
        Factor(
            "negatives (base: the batch)",
            {"all items": "negatives.kind=full:negatives.correction=none"},
        ),
        Factor(
            "loss, 256 uniform negatives",
            {
                "bpr": "loss.name=bpr",
                "gbce": "loss.name=gbce",
                "logistic": "loss.name=logistic",
                "squared": "loss.name=squared:loss.temperature=1:loss.negative_weight=8",
            },
            base=f"{UNIFORM}:negatives.num=256",
            base_label="softmax",
        ),
    ),
    budget="train.epochs=2:model.history_length=20:evaluate.indexes=[]"
    ":evaluate.metrics=[hr@10,ndcg@10,recall@20]",
    seconds=60,
    finding="As Yi et al. found, a correction is worth much (.061 of .156 ndcg@10); which of "
    "the three, or all items in place of the batch's, makes no difference here, while "
    "normalisation is worth .029 and temperature .07 over .15 .013. Softmax is .043 to "
    ".090 above pairwise and pointwise losses on the same uniform negatives, as expected "
    "of a listwise one, though only it had its temperature chosen.",
)
