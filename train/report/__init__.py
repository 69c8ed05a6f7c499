"""What is printed, logged and plotted."""
