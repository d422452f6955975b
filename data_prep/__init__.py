"""text → token streams with a known amount of everything"""
