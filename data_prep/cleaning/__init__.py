"""document → cleaned document, or a drop with its reason"""
