"""Millions of pictures: Ray Data reads, asks and writes; what was done is not done again."""
