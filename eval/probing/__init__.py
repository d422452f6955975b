"""labelled rows → probes, heads and directions"""
