"""Files only: four pictures and the demo checkpoint, for `nas_build`."""
