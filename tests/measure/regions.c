/* Counts the parallel regions of GNU's OpenMP in which threads wait for each other. Preloaded before it.
 *
 * PyTorch, MKL, oneDNN and our own stages all begin one with GOMP_parallel. A team of one thread waits for nobody.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <omp.h>

static long regions;

long counted_regions(void) { return __atomic_load_n(&regions, __ATOMIC_RELAXED); }

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags)
{
    static void (*next)(void (*)(void *), void *, unsigned, unsigned);
    if (!next)
        next = dlsym(RTLD_NEXT, "GOMP_parallel");
    if (!omp_in_parallel() && (threads ? threads : (unsigned)omp_get_max_threads()) > 1)
        __atomic_add_fetch(&regions, 1, __ATOMIC_RELAXED);
    next(body, data, threads, flags);
}
