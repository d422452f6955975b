"""training loop: set-up, step, validation, preemption, hang detection, end of a run"""
