"""What training asks of an encoder: named, weighted terms."""
