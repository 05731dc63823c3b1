"""Embedding tables: layout, touched rows and their rules, exchange over devices."""
