"""the sweep: what to run, where, and what is done already"""
