"""what training and evaluation read: shards, manifest, tokenizer, mixture"""
