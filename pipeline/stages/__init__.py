"""The steps of a build: compile, embed, index, extend the index, check.

Each step is one function that takes values and ports and returns an event and bytes. Build, repair, rerun and
`c10 engines` call the same functions and differ in what they do with the result. This folder imports
`pipeline.planning` and below, and never commits.
"""
