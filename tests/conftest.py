"""What tests of several folders share."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # transformers reads it when it is imported
