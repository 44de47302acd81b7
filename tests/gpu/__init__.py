"""The GPU kit: `pack` where there is a network, `kit` and `profile` on the GPU machine, `report` afterwards."""
