LEVEL: int
OPENMP: int
FORK_SAFE: bool
ISAS: tuple[str, ...]

def max_threads() -> int: ...
