"""BGE, GES and EGES, by field of side information, and for items hidden from training.

    python -m experiments.ablate side_information

On three logs: a synthetic one (market, kind, price, brand, tags, and noise, which tells
nothing), a shop's (category, brand, price), MovieLens 1M (genres, year). Ten epochs, of
the shop's log five in larger steps.
"""

from experiments.common.study import Factor, Study

HIDDEN = "data.hidden_share=0.1"

STUDY = Study(
    paper="Wang et al. 2018",
    question="What is side information worth to item embeddings, field by field, and for "
    "items that nobody has met?",
    expected="Wang et al.: EGES above GES above BGE, most of all for items of few events; "
    "a new item's side information alone finds it.",
    base="eges_synthetic",
    factors=(
        Factor(
            "model (base: EGES, all fields)",
            {"GES": "model.kind=ges", "BGE": "model.kind=bge"},
        ),
        Factor(
            "EGES with one field (base: all)",
            {
                field: f"model.side=[{field}]"
                for field in (
                    "market",
                    "kind",
                    "tags",
                    "noise",
                )
            },
        ),
        Factor(
            "a tenth of the items hidden",
            {
                "GES": "model.kind=ges",
                "GES, the market alone": "model.kind=ges:model.side=[market]",
            },
            base=f"eges_synthetic:{HIDDEN}",
            base_label="EGES",
        ),
        Factor(
            "a shop's log",
            {"GES": "model.kind=ges", "BGE": "model.kind=bge"},
            base="eges_ecomm:train.batch_size=256:train.epochs=5",
            base_label="EGES",
        ),
        Factor(
            "MovieLens 1M",
            {
                "EGES, genres alone": "model.side=[genres]",
                "EGES, year alone": "model.side=[year]",
                "GES": "model.kind=ges",
                "BGE": "model.kind=bge",
            },
            base="eges_ml1m",
            base_label="EGES",
        ),
        Factor(
            "MovieLens 1M, a tenth of the items hidden",
            {"GES": "model.kind=ges"},
            base=f"eges_ml1m:{HIDDEN}",
            base_label="EGES",
        ),
    ),
    budget="evaluate.indexes=[]:evaluate.metrics=[hr@10,ndcg@10,recall@20]",
    seconds=30,
    finding="Among all items the paper's order is turned round: BGE is above EGES on all three "
    "logs (by .005, .030 and .023 ndcg@10), GES between them only on MovieLens, and a field "
    "of pure noise does as well as all fields together. For items hidden from training it "
    "holds: side information finds them (.058, on MovieLens .028) where chance has .002 and "
    "what counts nothing, the plain mean of GES better than the weights of EGES, which a "
    "hidden item never trained (.099 and .051).",
)
