"""The objective that training minimises: named, weighted terms."""
