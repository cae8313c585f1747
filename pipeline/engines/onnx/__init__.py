"""Read ONNX files: the file and its external data, its graph, the inputs that it declares.

It imports `pipeline.errors`. It never runs a network and never trusts a size that a file states.
"""
