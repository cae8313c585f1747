"""Run the failed step of a recorded build again: does it fail on this machine, too?

This folder imports `pipeline.stages` and below. It never writes into a cache.
"""
