"""Find the settings of a served model that answer most pictures within a latency."""
