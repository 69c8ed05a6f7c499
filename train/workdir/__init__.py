"""Checks that a workdir, the folder of a run, belongs to this run, and locks it against others."""
