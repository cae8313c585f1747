"""Convert a network to float16 or bfloat16: choose the nodes, rewrite the graph, measure the loss.

It imports `pipeline.engines.onnx` and below. It takes graphs and returns graphs; it never compiles.
"""
