"""What is copied beside weights for transformers: plain PyTorch, without genome-lm."""
