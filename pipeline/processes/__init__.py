"""Child processes that may die: start them, talk to them in frames, tell how they ended.

It imports `pipeline.errors` alone. It knows nothing of tiles or engines. Children are spawned, never forked,
and end with their parent.
"""
