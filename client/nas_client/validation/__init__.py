"""Accuracy of a served model on a data set."""
