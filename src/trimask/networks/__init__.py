"""One file an architecture: pictures in 0..255 -> an output object. Pure torch."""
