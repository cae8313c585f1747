"""Run the steps of a recorded build again, and compare: does this machine get the same bytes?

It imports `pipeline.stages` and below. It never writes into a cache.
"""
