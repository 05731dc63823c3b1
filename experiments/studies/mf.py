"""Matrix factorisation's objectives on a synthetic log, which has exposures and grades.

    python -m experiments.ablate mf

Varied: squared error against cross-entropy, inner product against cosine, and negatives
that the user was shown and passed over against drawn ones.
"""

from experiments.common.study import Factor, Study

BASE = "mf_synthetic_exposed:negatives.own=none"
UNIFORM = f"{BASE}:negatives.kind=uniform:negatives.num=256:negatives.correction=none"
OWN = f"{BASE}:negatives.kind=none:negatives.correction=none"
PRODUCT = "model.normalize=none:loss.temperature=1"

STUDY = Study(
    paper="Koren et al. 2009; Rendle et al. 2020",
    question="Squared error or cross-entropy, inner product or cosine, exposed or drawn "
    "negatives?",
    expected="Cross-entropy ranks better than squared error; the cosine is better with a "
    "temperature; what was shown and passed over makes harder negatives, but alone it "
    "tells only what is listed, not what is wanted.",
    base=BASE,
    factors=(
        Factor(
            "loss, 256 uniform negatives, cosine",
            {
                "logistic (binary cross-entropy)": "loss.name=logistic",
                "squared": "loss.name=squared:loss.temperature=1:loss.negative_weight=8",
            },
            base=UNIFORM,
            base_label="softmax (cross-entropy)",
        ),
        Factor(
            "loss, 256 uniform negatives, inner product with biases",
            {
                "logistic (binary cross-entropy)": "loss.name=logistic",
                "squared": "loss.name=squared:loss.negative_weight=8",
            },
            base=f"{UNIFORM}:{PRODUCT}:model.biases=both",
            base_label="softmax (cross-entropy)",
        ),
        Factor(
            "score (base: cosine, the batch's negatives)",
            {
                "inner product": PRODUCT,
                "inner product, item bias": f"{PRODUCT}:model.biases=item",
                "cosine, item bias": "model.biases=item",
            },
        ),
        Factor(
            "four negatives of an example's own beside the batch (base: none)",
            {
                "uniform": "negatives.own=uniform",
                "exposed and passed over": "negatives.own=exposed",
            },
        ),
        Factor(
            "four negatives of an example's own, alone",
            {"exposed and passed over": "negatives.own=exposed"},
            base=f"{OWN}:negatives.own=uniform",
            base_label="uniform",
        ),
        Factor(
            "labels: 0 shown, 1 to 4 by what was done",
            {"squared error on them, nothing drawn": "mf_synthetic_graded"},
        ),
    ),
    budget="train.epochs=8:evaluate.indexes=[]:evaluate.metrics=[hr@10,ndcg@10,recall@20]",
    seconds=25,
    finding="Softmax beats the logistic loss on the same negatives (by .009 and .005 ndcg@10), "
    "but against the expectation squared error, its negatives weighted, does not differ "
    "from softmax, and the inner product is level with the cosine or a little above it. "
    "What was shown and passed over adds nothing beside the batch, and alone it ruins the "
    "ranking (.007 against .082 with as many uniform ones): what is listed is not what is "
    "wanted.",
)
