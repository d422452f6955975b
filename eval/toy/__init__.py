"""the paper's toy experiment: are features of under-sampled chains more entangled?"""
