"""Carry a cache elsewhere: export and import bundles, mirror to a folder that the aircraft reads.

It imports `store.cache` and below. It never changes the cache that it reads from, and believes nothing of a
bundle that its chain and digests do not prove.
"""
