"""How results are written and drawn."""
