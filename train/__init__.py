"""Trains, fine-tunes and evaluates networks; see `python train/main.py --help`."""
