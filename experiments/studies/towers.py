"""Four models of equal size on MovieLens 1M, for equal time.

    python -m experiments.ablate towers

Equal size: widths such that each has 487 to 492 thousand parameters, nearly all of them in
the two tables of 3,418 rows that each has. Equal time: four epochs each, for at these
widths an epoch takes about as long: measured one after the other on a machine busy with
other work 64 s (FM), 69 (DSSM), 65 (YoutubeDNN), 77 (sequence tower). The table has the
seconds that each took. All take the softmax over the whole catalogue.
"""

from experiments.study import Factor, Study

STUDY = Study(
    paper="Rendle 2010; Huang et al. 2013; Covington et al. 2016; Kang and McAuley 2018",
    question="Which model is best at the same size and the same time?",
    expected="The sequence tower first, as it alone models the whole order; YoutubeDNN "
    "and DSSM close to it and to each other; FM, whose history has no order, last.",
    base="dssm_ml1m",
    factors=(
        Factor(
            "model (base: DSSM)",
            {
                "FM": "fm_ml1m:model.width=70",
                "YoutubeDNN": "youtubednn_ml1m:model.width=67:model.id_width=67",
                "sequence tower": "sequence_ml1m:model.width=62:model.heads=2",
            },
        ),
    ),
    budget="train.epochs=2:evaluate.indexes=[]:evaluate.metrics=[hr@10,ndcg@10,recall@20]",
    seconds=90,
)
