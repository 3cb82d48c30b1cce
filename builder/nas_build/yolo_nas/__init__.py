"""The network, its checkpoints and their preprocessing."""
