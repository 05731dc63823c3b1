"""Item to item: sequences, graph, walks, skip-gram, its step and its measures."""
