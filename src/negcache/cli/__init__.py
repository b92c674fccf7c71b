"""The command line: ``negcache train | resume | evaluate | compare | search | export | data | demo``."""
