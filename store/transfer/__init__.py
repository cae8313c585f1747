"""Copy a cache: export and import bundles, say what a copy has, and mirror it to a folder that the aircraft reads.

It imports `store.verify` and the folders below it. It never changes the cache that it copies, and believes
nothing in a bundle that chain and digests do not prove.
"""
