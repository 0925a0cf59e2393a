"""What breaks, and what the index says afterwards."""
