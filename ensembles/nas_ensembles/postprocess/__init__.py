"""Last composing model: candidates to detections."""
