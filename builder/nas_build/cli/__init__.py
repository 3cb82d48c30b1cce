"""The command line of the builder."""
