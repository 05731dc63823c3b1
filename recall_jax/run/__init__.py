"""The front door: the config of a run."""
