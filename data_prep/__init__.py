"""build token streams from two text corpora, clean and toxic"""
