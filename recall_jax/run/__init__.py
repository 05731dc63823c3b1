"""The front door: a config, its data, model, loop and results, a run opened again."""
