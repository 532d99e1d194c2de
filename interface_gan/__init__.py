"""InterFaceGAN: a face generator, and the hyperplanes of its latent space across which an attribute changes."""
