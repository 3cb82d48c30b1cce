"""What an engine can be built for."""
