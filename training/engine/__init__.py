"""process group, DeepSpeed, tensor parallelism, devices"""
