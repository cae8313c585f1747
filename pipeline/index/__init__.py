"""Build the descriptor index: choose its kind, order its rows, run faiss on a CPU or GPU.

It imports `pipeline.request`, `pipeline.errors` and `store`. It never decides whether an index is needed.
"""
