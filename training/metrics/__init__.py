"""what is written down while training"""
