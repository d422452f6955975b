"""stores behind `storage`: locate URIs, list files, the S3 client, errors of stores"""
