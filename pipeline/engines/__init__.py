"""Networks and the engines that they compile to.

`port` says what a compiler is; `onnx`, `precision` and `models` read and prepare networks; `backends` compile
them. They import `pipeline.tiles` and below, and never write events or artifacts into a cache.
"""
