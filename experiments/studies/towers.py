"""Four models of equal size on MovieLens 1M, for equal time.

    python -m experiments.ablate towers

Equal size: widths such that each has 485 to 495 thousand parameters, nearly all of them in
the two tables of 3,418 rows that each has. Equal time: epochs such that each trains for
about as long, by the seconds of an epoch measured beside each other; the table shows the
seconds that it took. All take the softmax over the whole catalogue.
"""

from experiments.study import Factor, Study

STUDY = Study(
    paper="Rendle 2010; Huang et al. 2013; Covington et al. 2016; Kang and McAuley 2018",
    question="Which model is best at the same size and the same time?",
    expected="The sequence tower first, as it alone models the whole order; YoutubeDNN "
    "and DSSM close to it and to each other; FM, whose history has no order, last.",
    base="dssm_ml1m:train.epochs=4",
    factors=(
        Factor(
            "model (base: DSSM)",
            {
                "FM": "fm_ml1m:model.width=70:train.epochs=4",
                "YoutubeDNN": "youtubednn_ml1m:model.width=67:model.id_width=67"
                ":train.epochs=6",
                "sequence tower": "sequence_ml1m:model.width=62:model.heads=2"
                ":train.epochs=2:train.eval_every=1",
            },
        ),
    ),
    budget="evaluate.indexes=[]:evaluate.metrics=[hr@10,ndcg@10,recall@20]",
    seconds=90,
)
