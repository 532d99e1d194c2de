"""Loss formulas that several papers share. They are functions of tensors, without networks, state or files.

Unless a docstring says otherwise, likelihoods and divergences are in nats and images are in [-1, 1]. Everything is
computed in float32 or float64, also under autocast: bf16 and fp16 inputs are converted to float32.

    gaussian.py      reparameterize, KL terms, Gaussian negative log-likelihoods
    pixels.py        face_weight: where in a face an error counts more
    perceptual.py    feature_distance: errors of feature maps, as nats or as the papers' squared error
    adversarial.py   critic and generator losses of four GANs, WGAN-GP's and R1's penalties
    augment.py       DiffAugment: random changes that a critic sees on real faces and fakes alike
    targets.py       target labels of fakes, wrong labels for the critic, labels between two classes
    contrastive.py   pairs of codes: alike where the label is, apart where it is not
    quantise.py      8-bit levels, dequantisation noise, bits per dimension
    image_metrics.py PSNR and sharpness
"""
