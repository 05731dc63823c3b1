"""From a source to a log, its split, prepared arrays, a batch."""
