"""The flight recorder: history, timeline, steps, state at a record, failures and their root cause.

Pure but for `sources`, which opens a journal, a bundle or segments for the others. It imports `store.domain`
and below, and never writes.
"""
