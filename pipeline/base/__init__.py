"""What every other package needs: errors, options, files, seeds, devices, progress, locks."""
