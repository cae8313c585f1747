"""The steps that make engines: heads that are fitted, compiles, references, stand-ins.

It imports what `pipeline.stages` imports. What the checks demand of an engine is in `pipeline.stages.checks`.
"""
