"""estimates, intervals and resampling"""
