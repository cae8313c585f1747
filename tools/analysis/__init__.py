"""The answers of `c10 show`, `replay`, `diff` and `why`, each as a document and as text.

Pure but for `rerun`, which runs a failed step again. It may import `tools.forensics`, `tools.output` and
below. It never writes into a cache.
"""
