"""One interface to all trained models: edit, strip, slider, recon, draw, interpolate, export."""
