"""figures of the report"""
