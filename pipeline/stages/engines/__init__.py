"""The steps that make engines: heads that are fitted, compiles, references, stand-ins.

It imports what `pipeline.stages` imports. What an engine must prove before it is used is in `check_engine`.
"""
