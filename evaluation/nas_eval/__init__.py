"""Measure detections the way the field does: data sets, COCO metrics, plots.

Shared by the client, which measures what is served, and the builder, which measures what it builds.
"""
