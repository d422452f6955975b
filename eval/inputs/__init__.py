"""texts that an evaluation reads: labelled rows, prompts, held-out text"""
