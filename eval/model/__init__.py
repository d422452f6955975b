"""the model under evaluation: load, hook, generate"""
