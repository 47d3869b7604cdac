"""Settings of all tests."""

import torch

# the tests' tensors are small: one thread is faster than several, and steady beside other work
torch.set_num_threads(1)
