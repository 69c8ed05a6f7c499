"""The training programme. `python train/main.py --help`."""
