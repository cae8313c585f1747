"""Networks and the engines that they compile to.

`port` says what a compiler is; `onnx`, `precision` and `models` read and prepare networks; `backends` compile
them. They import `pipeline.request` and below, and never write into a cache.
"""
