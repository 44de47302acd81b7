"""Sizes of the kernels of the MLP's products, which their costs are counted from; without triton."""

ROWS, COLUMNS, STEP = 128, 256, 64
"""Of a program's result, and what it sums over at a time."""
COLUMNS_BACKWARD = 128
"""Of the two results that a program of the backward has."""
FUSED_WIDTH, FUSED_WIDTH_BACKWARD = 512, 256
"""Widest models whose products are taken by these kernels.

A program asks L2 for its operands, which have more bytes the wider the model is. By the counts in `costs`, products
of cuBLAS and a pass for the GELU take less time beyond (tests/kernels/test_costs.py).
"""
