"""Training steps compiled for devices elsewhere."""
