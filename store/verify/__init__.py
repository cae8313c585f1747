"""Check a cache on the ground: journal, manifests, segments, artifacts, permissions, and the aircraft's reader.

It imports `store.cache`, `store.reader` and the folders below them. It never writes to a cache.
"""
