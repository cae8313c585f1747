"""What the bytes of a flight cache mean: events, state, manifest, artifacts, and the reader that flies."""
