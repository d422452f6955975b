"""what a sweep will cost, computed from its settings before it runs (`--plan`)"""
