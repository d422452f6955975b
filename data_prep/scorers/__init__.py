"""score the toxicity of texts, by name of the scorer"""
