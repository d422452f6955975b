"""evaluate a model: probes, steering, scores and the cost of steering"""
