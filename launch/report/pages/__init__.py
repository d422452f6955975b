"""pages of the report: all results, one prompt set, the data, a summary"""
