"""Formulas that several papers share: tensors in, tensors out; no network, no state, no file, nothing else of ours.

Unless a docstring says otherwise, likelihoods and divergences are in nats, images lie in [-1, 1], and everything is
computed in at least float32, whatever autocast would like: float64 stays float64, bf16 and fp16 are raised.

    gaussian.py      reparameterize, KL terms, Gaussian negative log-likelihoods
    pixels.py        face_weight: where in a face an error counts more
    perceptual.py    feature_distance: errors of feature maps, as nats or as the papers' squared error
    adversarial.py   critic and generator losses of four GANs, WGAN-GP's and R1's penalties
    augment.py       DiffAugment: random changes that a critic sees on real faces and fakes alike
    targets.py       target labels of fakes, wrong labels for the critic, labels between two classes
    quantise.py      8-bit levels, dequantisation noise, bits per dimension
"""
