"""The program: data, training, evaluation and the command line; needs the ``run`` extra."""
