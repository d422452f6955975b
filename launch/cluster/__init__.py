"""the sweep on a Ray cluster: fit to the nodes, runs and evaluations, retries"""
