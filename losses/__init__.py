"""Loss formulas that several papers share. They are functions of tensors, without networks, state or files.

Unless a docstring says otherwise, likelihoods and divergences are in nats and images are in [-1, 1]. Everything is
computed in float32 or float64, also under autocast: bf16 and fp16 inputs are converted to float32.

    gaussian.py      reparameterize, KL terms, Gaussian negative log-likelihoods
    pixels.py        face_weight: larger pixel weights at eyes and mouth
    perceptual.py    feature_distance: errors of feature maps, as nats or as the papers' squared error
    adversarial.py   critic and generator losses of four GANs, WGAN-GP's and R1's penalties
    augment.py       DiffAugment: random augmentation of real and fake images for a critic
    targets.py       target labels of fakes, wrong labels for the critic, labels between two classes
    contrastive.py   contrastive loss of pairs of codes
    quantise.py      8-bit levels, dequantisation noise, bits per dimension
    image_metrics.py PSNR and sharpness
"""
