"""The long convolution in plain PyTorch, its FFTs and spectra, and its form that is fed one position at a time."""
