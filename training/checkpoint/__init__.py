"""save, publish and restore the training state"""
