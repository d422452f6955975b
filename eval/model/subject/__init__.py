"""the model as an evaluation sees it: hidden states, logits, hook points, KV cache"""
