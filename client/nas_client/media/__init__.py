"""Where pictures and videos come from."""
