"""prompts, labelled rows and held-out text"""
