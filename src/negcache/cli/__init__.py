"""The command line: ``negcache train | resume | evaluate | search | data | demo``."""
