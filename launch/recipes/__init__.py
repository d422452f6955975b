"""named experiments: laptop, one_gpu, paper, paper-mini, ladder-…"""
