"""The training programme; see `python train/main.py --help`."""
