"""Options, recipes and the folder of a run."""
