"""One step, many steps, many settings, windows, checkpoints, the run's log."""
