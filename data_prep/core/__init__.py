"""what every stage stands on: errors, records, storage, telemetry, keyed random numbers"""
