"""what one run is before its first step"""
