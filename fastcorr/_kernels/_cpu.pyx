"""What this processor and this build can do; teams of threads: how to fork, and to start them."""

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
    static int fc_processors(void) { return omp_get_num_procs(); }
    static long fc_openmp(void) { return _OPENMP; }
    #else
    static int fc_max_threads(void) { return 1; }
    static int fc_processors(void) { return 1; }
    static long fc_openmp(void) { return 0; }
    #endif

    /* OpenMP ends the process when it cannot start a thread or finds no memory: RLIMIT_NPROC,
       RLIMIT_AS, a control group's pids.max.  So whatever a team would newly take is taken here
       first, by threads of our own, and given back.  Then the team is started, empty; the next
       regions of so many threads, in the same thread, find it as it is and start nothing. */
    #if defined(_OPENMP) && defined(__linux__)
    #include <pthread.h>
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    enum { FC_MOST = 256 };
    static __thread int fc_team_size;   /* of this thread's last team, itself included */

    struct fc_trial { pthread_mutex_t gate; int n; long id[FC_MOST]; };

    static size_t fc_stack_size(void) {     /* that of OpenMP's threads, 0: the system's */
        const char *s = getenv("OMP_STACKSIZE");
        char *unit;
        size_t n;
        if (!s) s = getenv("GOMP_STACKSIZE");
        if (!s) return 0;
        n = strtoul(s, &unit, 10);
        while (*unit == ' ') unit++;
        switch (*unit | 32) {
            case 'b': return n;
            case 'm': return n << 20;
            case 'g': return n << 30;
            default: return n << 10;
        }
    }

    static void *fc_stay(void *p) {     /* until the gate opens */
        struct fc_trial *trial = p;
        pthread_mutex_lock(&trial->gate);
        trial->id[trial->n++] = syscall(SYS_gettid);
        pthread_mutex_unlock(&trial->gate);
        return NULL;
    }

    static int fc_startable(int n) {    /* of n more threads, all at a time */
        struct fc_trial trial = {.gate = PTHREAD_MUTEX_INITIALIZER};
        pthread_t thread[FC_MOST];
        pthread_attr_t attr;
        size_t stack = fc_stack_size();
        int i, m, tries;
        if (pthread_attr_init(&attr)) return 0;
        if (stack) (void)pthread_attr_setstacksize(&attr, stack);
        pthread_mutex_lock(&trial.gate);
        for (m = 0; m < n && !pthread_create(&thread[m], &attr, fc_stay, &trial); m++);
        pthread_mutex_unlock(&trial.gate);
        pthread_attr_destroy(&attr);
        for (i = 0; i < m; i++) pthread_join(thread[i], NULL);
        /* The system still counts a thread for a moment when pthread_join is through. */
        for (i = 0; i < m; i++)
            for (tries = 0; tries < 10000; tries++) {
                if (syscall(SYS_tgkill, getpid(), trial.id[i], 0)) break;
                tries < 100 ? sched_yield() : usleep(100);
            }
        return m;
    }

    static int fc_room(int n) {         /* for more than the books of a team */
        void *room = malloc(65536 + 1024 * (size_t)n);
        free(room);
        return room != NULL;
    }

    static int fc_team(int n) {
        int have = fc_team_size > 1 ? fc_team_size : 1;
        int more, once;
        if (n <= 1 || omp_in_parallel()) return 1;
        if (n == fc_team_size) return n;
        if (n > FC_MOST) n = FC_MOST;
        if (!fc_room(n)) return 1;
        if (n > have) {
            /* Until two trials agree: between them malloc may have reserved an arena for this
               thread, in the memory that the first one found for stacks. */
            more = fc_startable(n - have);
            do {
                once = more;
                if (!fc_room(n)) return 1;
                more = fc_startable(once);
            } while (more < once);
            n = have + more;
        }
        if (n == 1) return 1;
        #pragma omp parallel num_threads(n)
        { __asm__ volatile (""); }
        return fc_team_size = n;
    }
    static void fc_no_team(void) { fc_team_size = 0; }
    #else
    static int fc_team(int n) { return n; }
    static void fc_no_team(void) {}
    #endif

    /* GCC's OpenMP hangs in a child forked after its threads started.  Giving the threads up
       just before the fork cures that; both sides start new ones when they next need them. */
    #ifdef FC_HAVE_PAUSE
    #include <pthread.h>
    static void fc_before_fork(void) {
        if (omp_in_parallel()) return;
        (void)omp_pause_resource_all(omp_pause_hard);
        fc_no_team();
    }
    static int fc_guard_fork(void) { return pthread_atfork(fc_before_fork, 0, 0) == 0; }
    #else
    static int fc_guard_fork(void) { return 0; }
    #endif
    """
    int fc_level()
    int fc_max_threads() nogil
    int fc_processors() nogil
    int fc_team(int n) nogil
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


def cpus():
    """Processors that this process may use; OpenMP's view, older than its binding of threads."""
    return fc_processors()


cdef int team(int wanted) noexcept nogil:
    """Threads, at most so many, that a region may have now without OpenMP ending the process.

    To be asked before each region of more than one, and kept to: it is a matter of
    nanoseconds where the team stays as it was.
    """
    return fc_team(wanted)


cdef int processors() noexcept nogil:
    """Processors that this process may use: threads beyond so many wait for each other."""
    return fc_processors()
