"""a run before its first step: inputs, initial weights, batches, branching"""
