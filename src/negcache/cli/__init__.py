"""The command line, ``negcache``: one module per command or group of them."""
