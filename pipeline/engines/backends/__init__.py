"""Engine backends: each compiles networks in a child process, and the registry names them.

It imports `pipeline.engines`, `pipeline.processes` and `store.runtime`. A compiler that crashes raises an
error and never ends the build's own process.
"""
