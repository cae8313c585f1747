"""Run engines, one module per backend: load an engine's bytes, run it, name its library and device.

Part of the aircraft's code. It imports only `store.errors`, and libraries when they are needed. It never
compiles: `pipeline.engines.backends` does.
"""
