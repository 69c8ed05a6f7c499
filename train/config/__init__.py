"""How options are declared, checked and parsed; the recipes."""
