"""A kernel in memory, held to the real one by the same tests."""
