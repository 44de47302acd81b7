"""The gated long convolution on a GPU: kernels, their launches and plans, their costs."""
