"""secondary commands: steered export, scorer calibration, lm-eval"""
