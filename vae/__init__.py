"""Variational autoencoders of faces: train, find directions, edit a face. README.md is the page to read."""
