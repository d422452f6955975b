"""commands beside the evaluation: steered export, scorer calibration, lm-eval"""
