"""Shared by all tests: one torch thread, so that nothing depends on how many cores there are."""

import os

import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start

# torch.export shows a GPU that is not there. Were its first backward pass still to come, a process would then
# start threads for that GPU, and what is forked from it could not train. So the first one is this.
torch.ones(1, requires_grad=True).sum().backward()
