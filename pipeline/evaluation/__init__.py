"""What frozen features are worth: one file a protocol, and the metrics they share."""
