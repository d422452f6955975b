"""statistics of a sweep: series per ratio, paired comparisons, hypothesis tests"""
