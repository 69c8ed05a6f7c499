"""What is printed, logged and drawn."""
