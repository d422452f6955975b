"""checkpoints: save in the background, commit, restore"""
