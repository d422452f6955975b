"""the model, its loss and its export, in plain PyTorch"""
