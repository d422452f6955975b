"""the training loop and what it calls around a step"""
