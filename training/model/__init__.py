"""the network and its loss, in plain PyTorch"""
