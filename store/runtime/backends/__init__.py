"""One module per engine backend: load an engine's bytes, run it, tell its library and device.

Part of the aircraft's code. It imports `store.base`. It never compiles: that is `pipeline.engines.backends`.
"""
