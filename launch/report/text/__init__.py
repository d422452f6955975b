"""sentences and names in the report"""
