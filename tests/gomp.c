/* A stand-in for GCC's OpenMP library, for ThreadSanitizer: libgomp's own barriers are futexes,
   which it does not see, so that with libgomp every region is reported.  Here a region is
   pthread_create and pthread_join, and nothing else orders its threads: handing out the numbers
   of a loop is atomic but relaxed.  What is enough for Cython's prange, one loop to a region:

   cc -shared -fPIC -O1 -g -fsanitize=thread gomp.c -o libgomp.so, to be LD_PRELOADed after
   ThreadSanitizer's library. */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

enum { MOST = 256 };

struct team {
    void (*work)(void *);
    void *data;
    int size;
    pthread_barrier_t barrier;
    long next, end, step;           /* the loop that it shares out */
};
struct member { struct team *team; int number; };

static _Thread_local struct member self;

static void *work(void *p) {
    self = *(struct member *)p;
    self.team->work(self.team->data);
    return NULL;
}

void GOMP_parallel(void (*f)(void *), void *data, unsigned n, unsigned flags) {
    struct member before = self, member[MOST];
    pthread_t thread[MOST];
    struct team team = {.work = f, .data = data, .size = self.team || !n ? 1 : n};
    (void)flags;
    if (team.size > MOST) abort();
    pthread_barrier_init(&team.barrier, NULL, team.size);
    for (int i = 0; i < team.size; i++) member[i] = (struct member){&team, i};
    for (int i = 1; i < team.size; i++)
        if (pthread_create(&thread[i], NULL, work, &member[i])) abort();
    work(&member[0]);
    for (int i = 1; i < team.size; i++) pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&team.barrier);
    self = before;
}

void GOMP_barrier(void) { if (self.team) pthread_barrier_wait(&self.team->barrier); }

bool GOMP_loop_nonmonotonic_dynamic_next(long *from, long *to) {
    struct team *team = self.team;
    long end = __atomic_load_n(&team->end, __ATOMIC_RELAXED);
    long step = __atomic_load_n(&team->step, __ATOMIC_RELAXED);
    *from = __atomic_fetch_add(&team->next, step, __ATOMIC_RELAXED);
    *to = *from + step < end ? *from + step : end;
    return *from < end;
}

bool GOMP_loop_nonmonotonic_dynamic_start(
    long start, long end, long by, long chunk, long *from, long *to) {
    if (!self.team || start != 0 || by != 1) abort();
    __atomic_store_n(&self.team->end, end, __ATOMIC_RELAXED);       /* all write the same */
    __atomic_store_n(&self.team->step, chunk, __ATOMIC_RELAXED);
    return GOMP_loop_nonmonotonic_dynamic_next(from, to);
}

void GOMP_loop_end_nowait(void) {}

int omp_get_thread_num(void) { return self.number; }
int omp_get_num_threads(void) { return self.team ? self.team->size : 1; }
int omp_get_max_threads(void) { return 2; }
int omp_get_num_procs(void) { return 256; }     /* long tasks too get all the workers asked for */
int omp_in_parallel(void) { return omp_get_num_threads() > 1; }
int omp_pause_resource_all(int kind) { return (void)kind, 0; }
