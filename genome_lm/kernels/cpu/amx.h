/* Matrix products by the tiles of AMX: 16 rows of 64 bytes, which are 32 numbers of bfloat16 or 64 integers of 8 bits.
 *
 * Part of stages.c. An operand is stored as a sequence of whole tiles of 1 kB, so that a tile is one run of memory:
 *
 * - the left operand, of m rows and k columns, by tiles of 16 rows and one step of k: a "stripe" of 16 rows has its
 *   tiles of all steps of k one behind the other;
 * - the right operand, of k rows and n columns, by tiles of 16 columns and one step of k. Here a row of the tile holds
 *   two rows of the operand (four of integers), with the numbers of a column side by side. A stripe is 16 columns, and
 *   the number of stripes is even.
 *
 * What is missing up to a whole tile is zeros in the right operand and along k. Further rows of the left operand may
 * hold anything: each row of the result depends on its own alone.
 */
#define STRIPE 16
#define TILE_BYTES 1024
#define LINE_BYTES 64
#define PAIRS 16 /* 32-bit groups of k in a line */
#define BLOCK 32 /* rows and columns of the sums that are held in tiles at one time */
#define BLOCK_STEP (BLOCK * 4)

/* How many parts of this size there are, the last of them whole or not. */
static inline idx parts_of(idx count, idx size) { return (count + size - 1) / size; }

static inline idx padded(idx count, idx size) { return parts_of(count, size) * size; }

/* Steps of k that a matrix takes whose rows have so many bytes. */
static inline idx steps_of(idx bytes) { return parts_of(bytes, LINE_BYTES); }

/* Bytes of the right operand with n columns. */
static inline idx packed_bytes(idx n, idx steps) { return padded(n, BLOCK) / STRIPE * steps * TILE_BYTES; }

/* The transpose of a tile as 16 x 16 groups of 32 bits. Compilers make shuffles of it. */
static inline void transposed_groups(const void *source, void *target)
{
    uint32_t from[STRIPE][PAIRS], to[PAIRS][STRIPE];
    memcpy(from, source, TILE_BYTES);
    for (int i = 0; i < STRIPE; i++)
        for (int j = 0; j < PAIRS; j++)
            to[j][i] = from[i][j];
    memcpy(target, to, TILE_BYTES);
}

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && \
    defined(__AVX512DQ__)
#include <sys/syscall.h>
#include <unistd.h>

#define PERMISSION 0x1023 /* ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18

/* Whether the system lets this process use the tiles: it must be asked once. */
#define HAS_TILES
int has_amx(void) { return syscall(SYS_arch_prctl, PERMISSION, TILE_DATA) == 0; }

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) TileShapes;

/* A thread has tiles of 16 rows of 64 bytes between these two. Those that were set before come back then. */
static inline TileShapes begin_tiles(void)
{
    TileShapes before, shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.line_bytes[i] = LINE_BYTES;
        shapes.rows[i] = STRIPE;
    }
    _tile_storeconfig(&before);
    _tile_loadconfig(&shapes);
    return before;
}

static inline void end_tiles(const TileShapes *before)
{
    if (before->palette)
        _tile_loadconfig(before);
    else
        _tile_release();
}

/* The first `count` of 16 lanes. */
static inline __mmask16 first_columns(idx count)
{
    return count >= STRIPE ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1u);
}

/* What is multiplied: stripes of the left and of the right operand with so many steps of k. */
typedef struct {
    const char *left, *right;
    idx steps;
} Product;

/* Does what follows a product with rows [from, to) of the block of sums at row i and column j; `from` is even. A block
 * has BLOCK rows of BLOCK numbers: float, or int32_t of products of integers. */
typedef void (*Finish)(const void *context, const float *sums, idx i, idx j, idx from, idx to);

#define INLINE static inline __attribute__((always_inline))

/* One step of k of one or two stripes of the left operand by two of the right one, added to tiles 0 to 3. */
INLINE void multiply_step(const char *left, const char *right, idx steps, int is_whole, int of_integers)
{
#define ADD(sum, one, other)                                                                                          \
    if (of_integers)                                                                                                  \
        _tile_dpbssd(sum, one, other);                                                                                \
    else                                                                                                              \
        _tile_dpbf16ps(sum, one, other)
    _tile_loadd(4, left, LINE_BYTES);
    _tile_loadd(6, right, LINE_BYTES);
    ADD(0, 4, 6);
    _tile_loadd(7, right + steps * TILE_BYTES, LINE_BYTES);
    ADD(1, 4, 7);
    if (is_whole) {
        _tile_loadd(5, left + steps * TILE_BYTES, LINE_BYTES);
        ADD(2, 5, 6);
        ADD(3, 5, 7);
    }
#undef ADD
}

INLINE void store_sums(float *sums, int is_whole)
{
    _tile_stored(0, sums, BLOCK_STEP);
    _tile_stored(1, sums + STRIPE, BLOCK_STEP);
    if (is_whole) {
        _tile_stored(2, sums + STRIPE * BLOCK, BLOCK_STEP);
        _tile_stored(3, sums + STRIPE * BLOCK + STRIPE, BLOCK_STEP);
    }
}

/* Products of m rows and n columns, one or `count` of the same size, block by block. `finish` gets the sums of them one
 * behind the other. It runs on the block before, some rows after each step of k: the tiles and the vector units then
 * work at the same time. `sums` has room for 2 * count blocks. Arguments are constants where this is inlined. */
INLINE void multiply(const Product *products, int count, idx m, idx n, int of_integers, float *sums, Finish finish,
    const void *context)
{
    idx steps = 0, done_i = 0, done_j = 0, done_rows = 0;
    for (int c = 0; c < count; c++)
        steps += products[c].steps;
    const idx share = 2 * parts_of(BLOCK / 2, steps);
    float *here = sums, *done = sums + count * BLOCK * BLOCK;
    for (idx j = 0; j < n; j += BLOCK)
        for (idx i = 0; i < m; i += BLOCK) {
            const int is_whole = m - i > STRIPE;
            idx from = 0;
            /* Compilers do not know that tiles read memory: what was written before must be there. */
            __asm__ volatile("" ::: "memory");
            for (int c = 0; c < count; c++) {
                const idx of_product = products[c].steps;
                const char *left = products[c].left + i / STRIPE * of_product * TILE_BYTES;
                const char *right = products[c].right + j / STRIPE * of_product * TILE_BYTES;
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
                for (idx k = 0; k < of_product; k++, from += share) {
                    multiply_step(left + k * TILE_BYTES, right + k * TILE_BYTES, of_product, is_whole, of_integers);
                    if (from < done_rows)
                        finish(context, done, done_i, done_j, from, least(from + share, done_rows));
                }
                store_sums(here + c * BLOCK * BLOCK, is_whole);
            }
            float *const next = done;
            done = here, here = next;
            done_i = i, done_j = j, done_rows = least(BLOCK, m - i);
        }
    finish(context, done, done_i, done_j, 0, done_rows);
}
#else
int has_amx(void) { return 0; }
#endif

/* A matrix (n, k), whose rows have so many bytes, as the right operand of x @ matrix^T: `packed_bytes`. */
void pack_rows(const char *matrix, idx n, idx bytes, char *out)
{
    const idx steps = steps_of(bytes);
    for (idx start = 0; start < padded(n, BLOCK); start += STRIPE)
        for (idx step = 0; step < steps; step++, out += TILE_BYTES) {
            const idx from = step * LINE_BYTES, count = least(LINE_BYTES, bytes - from);
            char lines[STRIPE][LINE_BYTES] = {{0}};
            for (idx i = 0; i < STRIPE && start + i < n; i++)
                memcpy(lines[i], matrix + (start + i) * bytes + from, count);
            transposed_groups(lines, out);
        }
}

/* A matrix (k, n) of bfloat16 as the right operand of x @ matrix: `packed_bytes`. */
void pack_columns(const uint16_t *matrix, idx k, idx n, uint32_t *out)
{
    for (idx start = 0; start < padded(n, BLOCK); start += STRIPE)
        for (idx row = 0; row < steps_of(2 * k) * 2 * PAIRS; row += 2, out += STRIPE) {
            const uint16_t *upper = matrix + row * n + start, *lower = upper + n;
            const idx count = row < k ? least(STRIPE, n - start) : 0, of_lower = row + 1 < k ? count : 0;
            for (idx j = 0; j < STRIPE; j++)
                out[j] = (j < count ? upper[j] : 0u) | (j < of_lower ? (uint32_t)lower[j] << 16 : 0u);
        }
}
