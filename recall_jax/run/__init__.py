"""The front door: a config becomes data, a model, a loop, results."""
