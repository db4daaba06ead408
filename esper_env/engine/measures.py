"""What training shows, in the order in which engines hand it from the device to the host."""

TRAINED = ("train_loss", "train_accuracy", "finite")
"""Of an environment, as `EpochStats` calls it."""
TRAINED_SLOTS = ("gradient_norm", "gradient_ratio", "vanishing_share", "exploding_share", "delta_ratio")
"""Of each slot."""
