/* Work in pieces of rows, or of channels, which threads take one after the other without Python between them. Part of
 * stages.c.
 *
 * Each thread makes one call with the same Work, and the call ends when no piece is left to begin. Pieces are cut by
 * the caller, by shapes alone: which thread takes which one does not change a result.
 */
#include <stdlib.h>

/* Rows [first, first + rows) of tensors, by an operation with its weights; `room` is the thread's own. A function may
 * name the type of what it is given. */
typedef void (*Piece)(const void *operation, const void *tensors, idx first, idx rows, void *room);

typedef struct {
    Piece piece;
    const void *operation, *tensors;
    const idx *bounds; /* piece i has the rows [bounds[i], bounds[i + 1]) */
    idx pieces, next;
} Work;

void take_pieces(Work *work, void *room)
{
    for (idx i; (i = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->pieces;)
        work->piece(work->operation, work->tensors, work->bounds[i], work->bounds[i + 1] - work->bounds[i], room);
}

/* The same of a piece that adds to sums, or where it begins them, writes all but those that begin as zeros. */
typedef void (*SummedPiece)(
    const void *operation, const void *tensors, float *sums, int begins, idx first, idx rows, void *room);

#define LEVELS 6
#define PAIRS_OF_RUNS 32

/* Runs of successive pieces have sums of their own, up to 2 * PAIRS_OF_RUNS. Neighbours are added in pairs, then
 * neighbouring sums, and so on, as soon as both are there: the order of additions is that of the pieces. */
typedef struct {
    SummedPiece piece;
    const void *operation, *tensors;
    const idx *bounds;
    idx pieces, run;   /* and how many of them are a run */
    idx zeros, floats; /* of sums: those that begin as zeros, which come first, and all */
    float *total;      /* where the sums of all runs are written */
    idx next;
    int locked, failed; /* failed: there was no memory */
    float *waiting[LEVELS][PAIRS_OF_RUNS];
} SummedWork;

/* Leave sums for their neighbour, and give 0; or take those of the neighbour where they are there already. */
static float *meet(SummedWork *work, float **place, float *sums)
{
    while (__atomic_exchange_n(&work->locked, 1, __ATOMIC_ACQUIRE))
        ;
    float *other = *place;
    *place = other ? 0 : sums;
    __atomic_store_n(&work->locked, 0, __ATOMIC_RELEASE);
    return other;
}

static void add_run(SummedWork *work, idx number, float *sums)
{
    idx count = (work->pieces + work->run - 1) / work->run;
    for (idx level = 0; count > 1; count = (count + 1) / 2, number /= 2, level++) {
        if ((number ^ 1) >= count) /* the last of an odd number */
            continue;
        float *other = meet(work, &work->waiting[level][number / 2], sums);
        if (!other)
            return;
        float *first = number % 2 ? other : sums, *second = number % 2 ? sums : other;
        SIMD
        for (idx i = 0; i < work->floats; i++)
            first[i] += second[i];
        free(second);
        sums = first;
    }
    memcpy(work->total, sums, work->floats * sizeof(float));
    free(sums);
}

void take_summed_pieces(SummedWork *work, void *room)
{
    const idx runs = (work->pieces + work->run - 1) / work->run;
    for (idx number; (number = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < runs;) {
        const idx begin = number * work->run, end = least(begin + work->run, work->pieces);
        float *sums = aligned_alloc(64, (work->floats * sizeof(float) + 63) / 64 * 64);
        if (!sums) {
            __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
            return;
        }
        memset(sums, 0, work->zeros * sizeof(float));
        for (idx i = begin; i < end; i++)
            work->piece(work->operation, work->tensors, sums, i == begin, work->bounds[i],
                work->bounds[i + 1] - work->bounds[i], room);
        add_run(work, number, sums);
    }
}

/* Free what waits for neighbours that did not come. */
void drop_sums(SummedWork *work)
{
    for (idx i = 0; i < LEVELS; i++)
        for (idx j = 0; j < PAIRS_OF_RUNS; j++)
            free(work->waiting[i][j]);
}
