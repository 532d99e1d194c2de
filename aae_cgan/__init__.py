"""An adversarial autoencoder concat to a conditional GAN: one face in, the same person with each expression out."""
