"""corpus URI → documents"""
