"""Attributes to face: a conditional GAN, and a chain of three stages by way of a sketch."""
