"""``python -m negcache`` is the command ``negcache``."""

from negcache.run.cli.app import main

main()
