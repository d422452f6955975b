"""one run → one report"""
