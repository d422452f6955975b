"""what a sweep found → pages, figures and numbers for people"""
