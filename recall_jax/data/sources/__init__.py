"""Where logs come from: MovieLens, LightGCN's files, e-commerce, a synthetic log, your
own."""
