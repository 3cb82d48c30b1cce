"""First composing model: encoded pictures to canvases."""
