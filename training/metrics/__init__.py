"""metrics while training: log, model statistics, dashboards"""
