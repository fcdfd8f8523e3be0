"""What models' files hold: settings in the words of a `config.json`, tensors by those names."""
