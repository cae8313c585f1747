"""The flight recorder as a page: what `c10 replay --json` prints, drawn for people in one file that needs no network."""
