"""Find the place of a photograph: the question, the chunks that are searched, the answer in degrees and metres.

It executes engines and searches indexes through `store.runtime`, imports the aircraft's folders alone, and never
opens a cache: `store.reader` loads what it asks.
"""
