"""Shared by all tests: one torch thread, so that results do not depend on the machine and nothing oversubscribes."""

import torch

torch.set_num_threads(1)
