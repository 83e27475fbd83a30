"""What this processor and this build can do, and the handler that makes fork() safe."""

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GNUC__)
    static int fc_level(void) {
        __builtin_cpu_init();
    #if defined(__clang__) || __GNUC__ >= 12
        if (__builtin_cpu_supports("x86-64-v4")) return 4;
        if (__builtin_cpu_supports("x86-64-v3")) return 3;
    #else
        int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
            && __builtin_cpu_supports("bmi2");
        if (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512cd")) return 4;
        if (v3) return 3;
    #endif
        return 2;
    }
    #else
    static int fc_level(void) { return 0; }
    #endif

    #ifdef _OPENMP
    #include <omp.h>
    static int fc_max_threads(void) { return omp_in_parallel() ? 1 : omp_get_max_threads(); }
    static long fc_openmp(void) { return _OPENMP; }
    #else
    static int fc_max_threads(void) { return 1; }
    static long fc_openmp(void) { return 0; }
    #endif

    /* GCC's OpenMP hangs in a child forked after its threads started.  Giving the threads up
       just before the fork cures that; both sides start new ones when they next need them. */
    #ifdef FC_HAVE_PAUSE
    #include <pthread.h>
    static void fc_before_fork(void) {
        if (!omp_in_parallel()) (void)omp_pause_resource_all(omp_pause_hard);
    }
    static int fc_guard_fork(void) { return pthread_atfork(fc_before_fork, 0, 0) == 0; }
    #else
    static int fc_guard_fork(void) { return 0; }
    #endif
    """
    int fc_level()
    int fc_max_threads() nogil
    long fc_openmp()
    int fc_guard_fork()
    const char *FC_ISAS


LEVEL = fc_level()              # x86-64 level 2, 3 or 4; 0 elsewhere
ISAS = tuple(FC_ISAS.decode().split(","))     # built, oldest first
OPENMP = fc_openmp()            # version date of OpenMP, 0 without
FORK_SAFE = bool(fc_guard_fork()) or not OPENMP


def max_threads():
    """Threads that OpenMP would use here: OMP_NUM_THREADS, threadpoolctl, nesting."""
    return fc_max_threads()
