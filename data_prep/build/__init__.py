"""the Ray job: files → tokenized segments → shards and their manifest"""
