"""What rooms say about their options; recipes; the folder of a run."""
