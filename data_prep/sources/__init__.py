"""read corpora: from document URIs to documents"""
