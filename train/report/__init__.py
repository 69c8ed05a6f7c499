"""Prints, logs and plots the progress and the results of a run."""
