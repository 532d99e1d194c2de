"""StarGAN (a labelled expression or attribute) and GC-GAN (the expression of another person's landmarks)."""
