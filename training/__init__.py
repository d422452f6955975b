"""one mixture → one model"""
