"""Fast inference: folds, compiles and runs networks, and names the most likely classes."""
