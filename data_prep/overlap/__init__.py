"""overlap of evaluation texts with the training text of a finished stream"""
