"""One interface to a trained model: edit, strip, slider, reconstruct, draw, interpolate, export."""
