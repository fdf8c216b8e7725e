"""What every application shares: data sets, the run folder, the training loop, metrics and figures."""
