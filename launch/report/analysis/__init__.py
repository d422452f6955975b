"""numbers of a sweep: comparisons, curves, tests"""
