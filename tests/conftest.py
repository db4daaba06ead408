"""Shared by all tests: one torch thread, so that nothing depends on how many cores there are."""

import torch

torch.set_num_threads(1)
