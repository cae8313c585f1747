"""Narrow a network to float16 or bfloat16: what can be narrowed, what must stay, the rewritten graph.

It imports `pipeline.engines.onnx`. Graphs in, graphs out: it never compiles.
"""
