"""The fused sub-blocks on a CPU: stages in C, products of oneDNN, buffers, and the threads that share pieces."""
