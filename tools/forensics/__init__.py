"""What the records of a cache say of its builds: facts, timeline, steps, state, failures, root cause.

Pure but for `sources`, which opens a cache, a journal or a bundle for the others. It imports `journal`,
`store`, `tools.output` and values of `pipeline`. It never writes, and never runs anything that was recorded.
"""
