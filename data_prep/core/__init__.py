"""shared by all stages: errors, records, settings, storage, telemetry, Ray, random keys"""
