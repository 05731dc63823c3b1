"""Encode, rank, measure, segments, baselines."""
