"""One module per engine backend: compile a network in a child process, and the registry that names them.

It imports `pipeline.engines`, `pipeline.processes` and `store.runtime`. A compiler that crashes is an
outcome, never the end of the build.
"""
