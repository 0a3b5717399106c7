"""What ends the execution of PTX."""


class Fault(Exception):
    """The code does what it may not do, and execution cannot go on."""


class UnknownInstruction(Exception):
    """The interpreter does not know an instruction of the code."""
