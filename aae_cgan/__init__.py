"""An adversarial autoencoder combined with a conditional GAN: one face in, the same person with each expression out."""
