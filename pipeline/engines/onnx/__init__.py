"""Read ONNX files: the file and its external weights, its graph, the inputs and outputs that it declares.

It imports `pipeline.engines.port`, `pipeline.errors` and `store.files`. It never runs a network and never
trusts what a file states.
"""
