"""Check a cache on the ground: its files against the journal, and its head as the aircraft reads it.

It imports `store.cache`, `store.reader` and the folders below them. It never writes to a cache.
"""
