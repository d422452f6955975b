"""ranks, DeepSpeed and tensor parallelism"""
