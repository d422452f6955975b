"""the solver of the probes: their loss on a CPU or a GPU, and its minimisation"""
