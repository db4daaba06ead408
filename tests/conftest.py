"""Shared by all tests: one torch thread, so that nothing depends on how many cores there are."""

import os

import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
