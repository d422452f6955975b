"""learning rate, Muon and the guard against bad steps"""
