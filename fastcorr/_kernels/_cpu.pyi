LEVEL: int
OPENMP: int
FORK_SAFE: bool
ISAS: tuple[str, ...]

def cpus() -> int: ...
def max_threads() -> int: ...
