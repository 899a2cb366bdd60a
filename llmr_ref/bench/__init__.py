"""Speed of the reference against its peers, side by side in one run: `llmr bench reference`."""
