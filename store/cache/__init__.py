"""Write and read a cache: append events to the journal, keep files in step with it, recover after a crash.

`writer` is the one write path, `view` the read side. It imports the journal, `store.policy`, `store.disk` and
below. It never deletes an artifact and never decides what a build does.
"""
