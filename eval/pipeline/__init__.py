"""one evaluation from its inputs to its report"""
