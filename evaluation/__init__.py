"""How good a folder of images is: one judge for all methods. It reads folders with a manifest, never a method."""
