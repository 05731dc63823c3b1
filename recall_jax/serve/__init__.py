"""Towers and vectors out, read again, recommendations."""
