"""Text for terminals: tables, wrapped text, progress, and recorded text made safe to print.

It may import values of `pipeline` and below to render them. It never opens a cache.
"""
