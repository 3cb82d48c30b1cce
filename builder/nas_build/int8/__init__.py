"""From a half-precision graph to one in int8 that loses little."""
