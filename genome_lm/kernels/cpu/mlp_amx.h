/* Pieces of the residual MLP by the tiles of AMX (amx.h), each in one call: see sub_blocks.h for the same by the BLAS.
 *
 * The weights are packed once. Between two products, what the next one reads is written in its layout while a block of
 * sums is in the first-level cache.
 */
#define FORWARD_ROWS 128
#define BACKWARD_ROWS 256 /* sums of the weights' gradients are read and written once for so many */
#define HALVES (2 * PAIRS) /* numbers of bfloat16 in a line */
#define HALF_TILE (TILE_BYTES / 2)

/* Right operands of products, in bfloat16: w1 and w2 for x @ w^T, the others for gradient @ w. `b1` has zeros up to a
 * whole number of blocks. */
typedef struct {
    const float *norm_weight, *norm_bias;
    const char *w1;
    const float *b1;
    const char *w2;
    const float *b2;
    const char *w1_back, *w2_back;
    idx width, inner;
    float eps;
} TiledMlp;

#ifdef HAS_TILES
/* Takes so many bytes of the room. */
static inline char *taken(char **room, idx bytes)
{
    char *here = *room;
    *room += parts_of(bytes, LINE_BYTES) * LINE_BYTES;
    return here;
}

static inline char *aligned(void *room)
{
    return (char *)(((uintptr_t)room + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES);
}

/* Line i of stripes with so many steps. */
static inline char *line_of(char *stripes, idx i, idx steps)
{
    return stripes + i / STRIPE * steps * TILE_BYTES + i % STRIPE * LINE_BYTES;
}

/* Numbers up to a whole number of lines, rounded, as a line of a stripe. */
static inline void narrow_line(const float *x, idx steps, char *line)
{
    for (idx step = 0; step < steps; step++)
        narrow_row(x + step * HALVES, (uint16_t *)(line + step * TILE_BYTES), HALVES);
}

static inline void zero_line(char *line, idx steps)
{
    for (idx step = 0; step < steps; step++)
        memset(line + step * TILE_BYTES, 0, LINE_BYTES);
}

/* gelu(x) / x for 16 values to 2e-4, as `rough_gelu_slope`, by instructions for powers of two and for reciprocals. The
 * polynomial is 2^f of a fraction f to 1e-4. Beyond the range of float the slope is 0 or 1; what is not a number stays so. */
static inline __m512 gelu_slopes(__m512 x, __m512 square)
{
    const float a = -GELU_A * 1.44269504f;
    const __m512 t = _mm512_mul_ps(x, _mm512_fmadd_ps(square, _mm512_set1_ps(a * GELU_B), _mm512_set1_ps(a)));
    const __m512 f = _mm512_reduce_ps(t, 1);
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.0780243f), _mm512_set1_ps(0.2260673f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6958336f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999252f));
    return _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.0f), _mm512_scalef_ps(p, t)));
}

/* What follows the first product: where the left operand of the second one is written. */
typedef struct {
    const float *bias;
    char *active;
    idx steps;
} ToGelu;

INLINE void through_gelu(const void *context, const float *sums, idx i, idx j, idx from, idx to)
{
    const ToGelu *to_gelu = context;
    const __m512 biases[2] = {_mm512_loadu_ps(to_gelu->bias + j), _mm512_loadu_ps(to_gelu->bias + j + STRIPE)};
    for (idx r = from; r < to; r++) {
        __m512 active[2];
        for (int half = 0; half < 2; half++) {
            const __m512 x = _mm512_add_ps(_mm512_load_ps(sums + r * BLOCK + half * STRIPE), biases[half]);
            active[half] = _mm512_mul_ps(x, gelu_slopes(x, _mm512_mul_ps(x, x)));
        }
        char *line = line_of(to_gelu->active, i + r, to_gelu->steps) + j / HALVES * TILE_BYTES;
        _mm512_store_si512(line, (__m512i)_mm512_cvtne2ps_pbh(active[1], active[0]));
    }
}

/* What follows the second product: out = x + (sums + bias), of rows that are `width` numbers apart. */
typedef struct {
    const float *bias, *x;
    float *out;
    idx width;
} ToResidual;

INLINE void add_residual(const void *context, const float *sums, idx i, idx j, idx from, idx to)
{
    const ToResidual *residual = context;
    const idx columns = least(BLOCK, residual->width - j);
    for (idx r = from; r < to; r++) {
        const idx at = (i + r) * residual->width + j;
        SIMD
        for (idx c = 0; c < columns; c++)
            residual->out[at + c] = residual->x[at + c] + (sums[r * BLOCK + c] + residual->bias[j + c]);
    }
}

/* out = x + fc2(gelu(fc1(norm(x)))) of so many rows; out may be x. */
void tiled_mlp_forward(const TiledMlp *mlp, const float *x, float *out, idx rows, void *room)
{
    const idx width = mlp->width, inner = mlp->inner, steps = steps_of(2 * width), inner_steps = steps_of(2 * inner);
    char *free = aligned(room);
    float *sums = (float *)taken(&free, 2 * BLOCK * BLOCK_STEP), *row = (float *)taken(&free, steps * HALVES * 4);
    char *normed = taken(&free, FORWARD_ROWS / STRIPE * steps * TILE_BYTES);
    char *active = taken(&free, FORWARD_ROWS / STRIPE * inner_steps * TILE_BYTES);
    memset(row, 0, steps * HALVES * sizeof(float));
    begin_tiles();
    for (idx start = 0; start < rows; start += FORWARD_ROWS) {
        const idx n = least(FORWARD_ROWS, rows - start);
        for (idx i = 0; i < n; i++) {
            norm_row(x + (start + i) * width, mlp->norm_weight, mlp->norm_bias, row, width, mlp->eps);
            narrow_line(row, steps, line_of(normed, i, steps));
        }
        const ToGelu to_gelu = {mlp->b1, active, inner_steps};
        multiply(&(Product){normed, mlp->w1, steps}, 1, n, inner, 0, sums, through_gelu, &to_gelu);
        const ToResidual residual = {mlp->b2, x + start * width, out + start * width, width};
        multiply(&(Product){active, mlp->w2, inner_steps}, 1, n, width, 0, sums, add_residual, &residual);
    }
    end_tiles();
}

/* Bytes of the room that a thread needs. */
idx tiled_mlp_room(const TiledMlp *mlp)
{
    const idx steps = steps_of(2 * mlp->width), inner_steps = steps_of(2 * mlp->inner);
    const idx forward = FORWARD_ROWS / STRIPE * (steps + inner_steps) * TILE_BYTES;
    return forward + steps * HALVES * 4 + 4 * BLOCK * BLOCK_STEP + 8 * LINE_BYTES;
}
#endif
