/* Threads that do a call together with the calling thread, without Python between them. Part of stages.c.
 *
 * They are started at the first need, sleep while there is nothing to do, and stay until the process ends. A fork
 * starts with none. Each thread has room of its own, which it keeps for its next call. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#define LINE 64 /* bytes of a cache line */

typedef void (*Take)(void *work, void *room);

typedef struct Job {
    Take take;
    void *work;
    size_t room; /* bytes that each thread needs for itself */
    int wanted;  /* threads that may still come */
    int present; /* those that came and have not left */
    pthread_cond_t left;
    struct Job *next;
} Job;

/* PyTorch's own, which a caller sets: how many threads the operations of the calling thread run on. The latter gives
 * the number before, and may be missing. */
void (*set_openmp_threads)(int);
int (*set_mkl_threads)(int);

static int set_threads(int openmp, int mkl)
{
    set_openmp_threads(openmp);
    return set_mkl_threads ? set_mkl_threads(mkl) : 0;
}

static pthread_once_t pool_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t pool_lock;
static pthread_cond_t pool_work;
static pthread_key_t pool_room;
static Job *pool_jobs; /* those that want threads */
static int pool_threads;

static void empty_pool(void)
{
    pthread_mutex_init(&pool_lock, 0);
    pthread_cond_init(&pool_work, 0);
    pool_jobs = 0;
    pool_threads = 0;
}

static void make_pool(void)
{
    pthread_key_create(&pool_room, free);
    pthread_atfork(0, 0, empty_pool);
    empty_pool();
}

/* Memory of the calling thread, on a cache line; 0 where there is none. */
static void *own_room(size_t bytes)
{
    char *memory = pthread_getspecific(pool_room);
    if (!memory || *(size_t *)memory < bytes) {
        free(memory);
        memory = aligned_alloc(LINE, (LINE + bytes + LINE - 1) / LINE * LINE);
        pthread_setspecific(pool_room, memory);
        if (!memory)
            return 0;
        *(size_t *)memory = bytes;
    }
    return memory + LINE;
}

static void take_off(const Job *job)
{
    Job **place = &pool_jobs;
    while (*place != job)
        place = &(*place)->next;
    *place = job->next;
}

/* Take part in a job, with the lock held before and afterwards. Where there is no room the other threads do it. */
static void join_job(Job *job)
{
    job->present++;
    if (!--job->wanted)
        take_off(job);
    pthread_mutex_unlock(&pool_lock);
    void *room = own_room(job->room);
    if (room)
        job->take(job->work, room);
    pthread_mutex_lock(&pool_lock);
    if (!--job->present)
        pthread_cond_signal(&job->left);
}

static void *serve_pool(void *nothing)
{
    set_threads(1, 1);
    pthread_mutex_lock(&pool_lock);
    for (;;) {
        if (pool_jobs)
            join_job(pool_jobs);
        else
            pthread_cond_wait(&pool_work, &pool_lock);
    }
    return nothing;
}

/* Start threads until there are so many, with the lock held; fewer where the system gives no more. */
static void start_threads(int count)
{
    sigset_t all, before;
    sigfillset(&all); /* signals are for the threads of Python */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; pool_threads < count && !pthread_create(&thread, 0, serve_pool, 0); pool_threads++)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

static void ask_threads(Job *job)
{
    pthread_mutex_lock(&pool_lock);
    if (pool_threads < job->wanted)
        start_threads(job->wanted);
    job->next = pool_jobs;
    pool_jobs = job;
    for (int i = 0; i < job->wanted; i++)
        pthread_cond_signal(&pool_work);
    pthread_mutex_unlock(&pool_lock);
}

/* Wait until those that came have left; no other may come any more. */
static void end_job(Job *job)
{
    pthread_mutex_lock(&pool_lock);
    if (job->wanted)
        take_off(job);
    job->wanted = 0;
    while (job->present)
        pthread_cond_wait(&job->left, &pool_lock);
    pthread_mutex_unlock(&pool_lock);
}

/* Do a call on the calling thread and on `others` more, each with so many bytes of room. What they call runs on one
 * thread each; `before` is PyTorch's number of threads of the calling one, which it has again afterwards; 0 leaves it
 * as it is. Gives whether there was memory for the room: nothing is done otherwise. */
int do_together(Take take, void *work, size_t room, int others, int before)
{
    pthread_once(&pool_once, make_pool);
    void *own = own_room(room);
    if (!own)
        return 0;
    const int of_mkl = before > 1 ? set_threads(1, 1) : 0;
    Job job = {take, work, room, others, 0, PTHREAD_COND_INITIALIZER, 0};
    if (others > 0)
        ask_threads(&job);
    take(work, own);
    if (others > 0)
        end_job(&job);
    if (before > 1)
        set_threads(before, of_mkl);
    return 1;
}

/* One of several calls of `do_together`: on so many threads at most. */
typedef struct {
    Take take;
    void *work;
    size_t room;
    int most;
} Step;

/* Do them one after the other, on up to `threads` threads. Gives whether there was memory for the room of all. */
int do_in_turn(const Step *steps, int count, int threads, int before)
{
    for (const Step *step = steps; step < steps + count; step++) {
        const int takers = threads < step->most ? threads : step->most;
        if (!do_together(step->take, step->work, step->room, takers - 1, before))
            return 0;
    }
    return 1;
}
