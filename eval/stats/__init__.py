"""statistics: estimates with intervals, resampling, AUROC"""
