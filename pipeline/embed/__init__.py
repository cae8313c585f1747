"""Turn tiles into descriptors: cells, windows, worker processes, rows that are reused.

It imports `pipeline.tiles`, `pipeline.processes` and below, and reads blocks from a cache. Workers return
vectors; nothing here writes into the cache.
"""
