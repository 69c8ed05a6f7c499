"""The folder of a run: which run it belongs to, and which process uses it."""
