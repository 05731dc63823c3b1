"""The mesh, arrays on it, several processes as one run."""
