"""text → toxicity score"""
