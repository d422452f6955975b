"""probes of all heads: accuracy, directions, chance level, transfer, entanglement, lens"""
