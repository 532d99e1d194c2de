"""Variational autoencoders of faces: train, find attribute directions, edit faces. Start with README.md."""
