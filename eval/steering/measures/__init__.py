"""quantities that are measured at every strength: continuations, log-likelihoods, answers"""
