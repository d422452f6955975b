"""many small transformers at once: their operations, the model, its training"""
