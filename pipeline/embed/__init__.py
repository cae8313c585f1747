"""Turn tiles into descriptors: cells, batches, worker processes, rows that are reused.

It imports `pipeline.tiles`, `pipeline.processes` and below. Workers return vectors and never write into the
cache.
"""
