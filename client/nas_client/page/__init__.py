"""A page for people who want to see what a model finds."""
