"""The best k rows for a query: exact, approx, ScaNN."""
