"""readers of file formats: bytes of a file → rows"""
