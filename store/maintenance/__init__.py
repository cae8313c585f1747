"""Maintain a cache: collect garbage, rebuild the journal from segments, sign generations, recover signatures.

It imports `store.cache` and the folders below it. Its callers hold the build lock; it records what it changes
in the journal.
"""
