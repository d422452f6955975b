"""data card of a stream: counted from its provenance, shown on terminal and in the report"""
