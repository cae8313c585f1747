"""The steps of a build, each written once: compile, embed, index, extend the index, check.

Functions that take values and ports and return event and bytes. Build, repair, rerun and `c10 engines` call
them and differ in what they do with the result. They import `pipeline.planning` and below.
"""
