"""named experiments: laptop, smoke, one_gpu, paper, paper-mini, ladder-…"""
