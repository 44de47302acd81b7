"""Errors that are the user's to mend."""


class GenomeLMError(Exception):
    """Bad input, said in one message: what is wrong, in which file and record, and the way out.

    The command line prints the message alone and exits with status 1; in Python it is raised as it is.
    """
