"""Child processes that may crash: start them, exchange messages with them, and return how they ended.

It imports `pipeline.errors` and `store.errors`. It knows nothing of tiles or engines. It spawns children and
never forks, and a child ends with its parent.
"""
