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
    *room += padded(bytes, LINE_BYTES);
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

/* A row of numbers, rounded, as a line of a stripe, with zeros up to its end. */
static inline void narrow_line(const float *x, idx width, char *line)
{
    idx j = 0;
    for (; j + HALVES <= width; j += HALVES, line += TILE_BYTES)
        narrow_row(x + j, (uint16_t *)line, HALVES);
    if (j < width) {
        memset(line, 0, LINE_BYTES);
        narrow_row(x + j, (uint16_t *)line, width - j);
    }
}

/* gelu(x) / x for 16 values to 2e-4, as `rough_gelu_slope`, by instructions for powers of two and for reciprocals. The
 * polynomial is 2^f of a fraction f to 1e-4. Beyond the range of float the slope is 0 or 1. What is not a number stays
 * so. */
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

/* Sums of integers as numbers: times the scale of their row and of their columns. */
INLINE __m512 scaled(const float *sums, float scale, __m512 of_columns)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), _mm512_mul_ps(_mm512_set1_ps(scale), of_columns));
}

/* What follows the second product: out = x + (sums + bias), of rows that are `width` numbers apart. Sums of integers are
 * times the scales of their row and column first. */
typedef struct {
    const float *row_scales, *scales, *bias, *x;
    float *out;
    idx width;
} ToResidual;

INLINE void add_branch(
    const ToResidual *residual, const float *sums, idx i, idx j, idx from, idx to, int of_integers)
{
    const idx columns = least(BLOCK, residual->width - j);
    for (idx r = from; r < to; r++) {
        const idx at = (i + r) * residual->width + j;
        for (idx c = 0; c < columns; c += STRIPE) {
            const __mmask16 there = first_columns(columns - c);
            const float *here = sums + r * BLOCK + c;
            const __m512 bias = _mm512_maskz_loadu_ps(there, residual->bias + j + c);
            const __m512 x = _mm512_maskz_loadu_ps(there, residual->x + at + c);
            const __m512 product = of_integers
                ? scaled(here, residual->row_scales[i + r], _mm512_maskz_loadu_ps(there, residual->scales + j + c))
                : _mm512_load_ps(here);
            _mm512_mask_storeu_ps(residual->out + at + c, there, _mm512_add_ps(x, _mm512_add_ps(product, bias)));
        }
    }
}

INLINE void add_residual(const void *context, const float *sums, idx i, idx j, idx from, idx to)
{
    add_branch(context, sums, i, j, from, to, 0);
}

INLINE void add_scaled_residual(const void *context, const float *sums, idx i, idx j, idx from, idx to)
{
    add_branch(context, sums, i, j, from, to, 1);
}

/* out = x + fc2(gelu(fc1(norm(x)))) of rows [first, first + rows); out may be x. */
void tiled_mlp_forward(const TiledMlp *mlp, const MlpRows *all, idx first, idx rows, void *room)
{
    const idx width = mlp->width, inner = mlp->inner, steps = steps_of(2 * width), inner_steps = steps_of(2 * inner);
    const float *x = all->x + first * width;
    float *out = all->out + first * width;
    char *free = aligned(room);
    float *sums = (float *)taken(&free, 2 * BLOCK * BLOCK_STEP), *row = (float *)taken(&free, width * sizeof(float));
    char *normed = taken(&free, FORWARD_ROWS / STRIPE * steps * TILE_BYTES);
    char *active = taken(&free, FORWARD_ROWS / STRIPE * inner_steps * TILE_BYTES);
    const TileShapes tiles = begin_tiles();
    for (idx start = 0; start < rows; start += FORWARD_ROWS) {
        const idx n = least(FORWARD_ROWS, rows - start);
        for (idx i = 0; i < n; i++) {
            norm_row(x + (start + i) * width, mlp->norm_weight, mlp->norm_bias, row, width, mlp->eps);
            narrow_line(row, width, line_of(normed, i, steps));
        }
        const ToGelu to_gelu = {mlp->b1, active, inner_steps};
        multiply(&(Product){normed, mlp->w1, steps}, 1, n, inner, 0, sums, through_gelu, &to_gelu);
        const ToResidual residual = {0, 0, mlp->b2, x + start * width, out + start * width, width};
        multiply(&(Product){active, mlp->w2, inner_steps}, 1, n, width, 0, sums, add_residual, &residual);
    }
    end_tiles(&tiles);
}

/* Stripes of a left operand, of n rows, as those of its transpose, whose k is the rows: a whole number of steps. */
static inline void transpose_stripes(const char *stripes, idx n, idx width, idx steps, char *out)
{
    for (idx column = 0; column < width; column += STRIPE)
        for (idx start = 0; start < n; start += HALVES, out += TILE_BYTES) {
            uint32_t pairs[PAIRS][STRIPE];
            for (idx q = 0; q < PAIRS; q++) {
                const idx i = start + 2 * q;
                const char *tile = stripes + (i / STRIPE * steps + column / HALVES) * TILE_BYTES;
                const uint16_t *upper = (const uint16_t *)(tile + i % STRIPE * LINE_BYTES) + column % HALVES;
                SIMD
                for (int j = 0; j < STRIPE; j++)
                    pairs[q][j] = upper[j] | (uint32_t)upper[j + HALVES] << 16;
            }
            transposed_groups(pairs, out);
        }
}

/* What follows the hidden layer and its gradient: the GELU, as the right operand of w2's gradient, and the gradient
 * through it, as that of w1's and as the left operand of the norm's. k of the right ones are `row_steps` of rows. */
typedef struct {
    const float *bias;
    float *bias_sums;
    char *active_right, *through_right, *through;
    idx row_steps, steps;
} ToGradients;

/* 16 values of the hidden layer and of its gradient: the GELU, and the gradient through it. */
INLINE void gelu_back(const float *hidden, const float *grad, __m512 bias, __m512 *active, __m512 *through)
{
    const __m512 x = _mm512_add_ps(_mm512_load_ps(hidden), bias), square = _mm512_mul_ps(x, x);
    const __m512 slope = gelu_slopes(x, square);
    *active = _mm512_mul_ps(x, slope);
    const __m512 rate = _mm512_fmadd_ps(square, _mm512_set1_ps(3.0f * GELU_A * GELU_B), _mm512_set1_ps(GELU_A));
    const __m512 bend = _mm512_fnmadd_ps(*active, slope, *active);
    *through = _mm512_mul_ps(_mm512_load_ps(grad), _mm512_fmadd_ps(bend, rate, slope));
}

/* Numbers of the second half between those of the first. */
INLINE __m512i interleaved(__m512i halves_of)
{
    uint16_t order[HALVES];
    for (int j = 0; j < STRIPE; j++)
        order[2 * j] = j, order[2 * j + 1] = j + STRIPE;
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(order), halves_of);
}

INLINE void back_through_gelu(const void *context, const float *sums, idx i, idx j, idx from, idx to)
{
    const ToGradients *gradients = context;
    for (int half = 0; half < 2; half++) {
        const idx column = j + half * STRIPE;
        const idx right = (column / STRIPE * gradients->row_steps + i / HALVES) * TILE_BYTES;
        const __m512 bias = _mm512_loadu_ps(gradients->bias + column);
        char *left = gradients->through + j / HALVES * TILE_BYTES + half * LINE_BYTES / 2;
        __m512 total = _mm512_loadu_ps(gradients->bias_sums + column);
        for (idx r = from; r < to; r += 2) {
            const float *upper = sums + r * BLOCK + half * STRIPE, *lower = upper + BLOCK;
            __m512 active[2], through[2];
            gelu_back(upper, upper + BLOCK * BLOCK, bias, active, through);
            gelu_back(lower, lower + BLOCK * BLOCK, bias, active + 1, through + 1);
            total = _mm512_add_ps(total, _mm512_add_ps(through[0], through[1]));
            const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(through[1], through[0]);
            const idx at = right + r / 2 * LINE_BYTES;
            _mm512_store_si512(gradients->active_right + at,
                interleaved((__m512i)_mm512_cvtne2ps_pbh(active[1], active[0])));
            _mm512_store_si512(gradients->through_right + at, interleaved(both));
            char *line = line_of(left, i + r, gradients->steps);
            _mm256_store_si256((__m256i *)line, _mm512_castsi512_si256(both));
            _mm256_store_si256((__m256i *)(line + LINE_BYTES), _mm512_extracti64x4_epi64(both, 1));
        }
        _mm512_storeu_ps(gradients->bias_sums + column, total);
    }
}

/* What follows other products of the way back: sums are written, or added, to a matrix with so many columns. */
typedef struct {
    float *out;
    idx columns;
    int adds;
} ToMatrix;

INLINE void write_matrix(const void *context, const float *sums, idx i, idx j, idx from, idx to)
{
    const ToMatrix *matrix = context;
    const idx columns = least(BLOCK, matrix->columns - j);
    for (idx r = from; r < to; r++) {
        float *out = matrix->out + (i + r) * matrix->columns + j;
        const float *row_of = sums + r * BLOCK;
        for (idx c = 0; c < columns; c += STRIPE) {
            const __mmask16 there = first_columns(columns - c);
            const __m512 value = _mm512_load_ps(row_of + c);
            const __m512 before = matrix->adds ? _mm512_maskz_loadu_ps(there, out + c) : _mm512_setzero_ps();
            _mm512_mask_storeu_ps(out + c, there, _mm512_add_ps(before, value));
        }
    }
}

/* Where a thread has what it needs on the way back. Rows are up to BACKWARD_ROWS, in whole steps of k. */
typedef struct {
    float *sums, *row, *standard, *bias_sums, *through_norm;
    char *normed, *grad, *normed_columns, *grad_columns, *active_right, *through_right, *through, *end;
} BackwardRoom;

static BackwardRoom backward_room(const TiledMlp *mlp, void *room)
{
    const idx steps = steps_of(2 * mlp->width), inner_steps = steps_of(2 * mlp->inner);
    const idx row_steps = BACKWARD_ROWS / HALVES, of_columns = parts_of(mlp->width, STRIPE) * row_steps * TILE_BYTES;
    const idx of_right = packed_bytes(mlp->inner, row_steps), stripes = BACKWARD_ROWS / STRIPE * TILE_BYTES;
    char *free = aligned(room);
    BackwardRoom parts;
    parts.sums = (float *)taken(&free, 4 * BLOCK * BLOCK_STEP);
    parts.row = (float *)taken(&free, mlp->width * sizeof(float));
    parts.standard = (float *)taken(&free, mlp->width * sizeof(float));
    parts.bias_sums = (float *)taken(&free, parts_of(mlp->inner, BLOCK) * BLOCK_STEP);
    parts.through_norm = (float *)taken(&free, BACKWARD_ROWS * mlp->width * sizeof(float));
    parts.normed = taken(&free, stripes * steps);
    parts.grad = taken(&free, stripes * steps);
    parts.normed_columns = taken(&free, of_columns);
    parts.grad_columns = taken(&free, of_columns);
    parts.active_right = taken(&free, of_right);
    parts.through_right = taken(&free, of_right);
    parts.through = taken(&free, stripes * inner_steps);
    parts.end = free;
    return parts;
}

/* The rows of the norm and of the gradient as left operands, and their transposes; further rows of a step are zeros. */
static void backward_operands(
    const TiledMlp *mlp, const float *x, const float *grad, idx n, const BackwardRoom *room, float *grad_sums)
{
    const idx width = mlp->width, steps = steps_of(2 * width), whole = parts_of(n, HALVES) * HALVES;
    for (idx i = 0; i < n; i++) {
        norm_row(x + i * width, mlp->norm_weight, mlp->norm_bias, room->row, width, mlp->eps);
        narrow_line(room->row, width, line_of(room->normed, i, steps));
        narrow_line(grad + i * width, width, line_of(room->grad, i, steps));
        SIMD
        for (idx j = 0; j < width; j++)
            grad_sums[j] += grad[i * width + j];
    }
    for (idx i = n; i < whole; i++)
        for (idx step = 0; step < steps; step++) {
            memset(line_of(room->normed, i, steps) + step * TILE_BYTES, 0, LINE_BYTES);
            memset(line_of(room->grad, i, steps) + step * TILE_BYTES, 0, LINE_BYTES);
        }
    transpose_stripes(room->normed, whole, width, steps, room->normed_columns);
    transpose_stripes(room->grad, whole, width, steps, room->grad_columns);
}

/* The gradient of x for that of the result. The weights' gradients are added to the sums, those of w1 and w2 as
 * matrices (width, inner); where a piece begins them, these two are written. */
void tiled_mlp_backward(
    const TiledMlp *mlp, const MlpRows *all, float *totals, int begins, idx first, idx rows, void *room)
{
    const idx width = mlp->width, inner = mlp->inner, steps = steps_of(2 * width), inner_steps = steps_of(2 * inner);
    const float *x = all->x + first * width, *grad = all->grad + first * width;
    float *grad_x = all->grad_x + first * width;
    const MlpSums sums = mlp_sums(totals, width, inner);
    const BackwardRoom parts = backward_room(mlp, room);
    memset(parts.bias_sums, 0, parts_of(inner, BLOCK) * BLOCK_STEP);
    const TileShapes tiles = begin_tiles();
    for (idx start = 0; start < rows; start += BACKWARD_ROWS) {
        const idx n = least(BACKWARD_ROWS, rows - start), row_steps = parts_of(n, HALVES);
        const float *here = x + start * width, *back = grad + start * width;
        const int adds = !begins || start > 0;
        backward_operands(mlp, here, back, n, &parts, sums.b2);
        const ToGradients gradients = {mlp->b1, parts.bias_sums, parts.active_right, parts.through_right, parts.through,
            row_steps, inner_steps};
        const Product of_hidden[2] = {{parts.normed, mlp->w1, steps}, {parts.grad, mlp->w2_back, steps}};
        multiply(of_hidden, 2, row_steps * HALVES, inner, 0, parts.sums, back_through_gelu, &gradients);
        multiply(&(Product){parts.grad_columns, parts.active_right, row_steps}, 1, width, inner, 0, parts.sums,
            write_matrix, &(ToMatrix){sums.w2, inner, adds});
        multiply(&(Product){parts.normed_columns, parts.through_right, row_steps}, 1, width, inner, 0, parts.sums,
            write_matrix, &(ToMatrix){sums.w1, inner, adds});
        multiply(&(Product){parts.through, mlp->w1_back, inner_steps}, 1, n, width, 0, parts.sums, write_matrix,
            &(ToMatrix){parts.through_norm, width, 0});
        for (idx i = 0; i < n; i++)
            norm_back_row(here + i * width, parts.through_norm + i * width, back + i * width, mlp->norm_weight,
                parts.standard, grad_x + (start + i) * width, sums.norm_weight, sums.norm_bias, width, mlp->eps);
    }
    end_tiles(&tiles);
    for (idx j = 0; j < inner; j++)
        sums.b1[j] += parts.bias_sums[j];
}

/* Bytes of the room that a thread needs, forward and backward. */
idx tiled_mlp_room(const TiledMlp *mlp) { return backward_room(mlp, 0).end - (char *)0 + LINE_BYTES; }

/* The MLP in 8-bit integers: w1 and w2 as right operands, with a scale for each of their columns. The scales of w1 and
 * b1 have zeros up to a whole number of blocks. */
typedef struct {
    const float *norm_weight, *norm_bias;
    const char *w1;
    const float *scales1, *b1;
    const char *w2;
    const float *scales2, *b2;
    idx width, inner;
    float eps;
} IntegerMlp;

#define INTEGER_ROWS 64

/* The larger of absolute values, as bits: what is not a number is larger than all others. */
INLINE __m512i larger_size(__m512i most, __m512 x)
{
    return _mm512_max_epi32(most, _mm512_and_si512((__m512i)x, _mm512_set1_epi32(0x7fffffff)));
}

/* The scale of `quantised_row` for a row with these largest sizes. */
static inline float scale_of(__m512i sizes)
{
    const int32_t bits = _mm512_reduce_max_epi32(sizes);
    float most;
    memcpy(&most, &bits, sizeof most);
    return (most > FLT_MIN * LARGEST ? most / LARGEST : FLT_MIN) + most * 0.0f;
}

/* A row over its scale as integers, in a line of a stripe, with zeros up to its end. */
static inline void quantise_line(const float *x, float scale, idx width, char *line)
{
    const __m512 inverse = _mm512_set1_ps(1.0f / scale);
    for (idx j = 0; j < width; j += LINE_BYTES, line += TILE_BYTES)
        for (idx part = 0; part < LINE_BYTES; part += STRIPE) {
            const idx count = width - j - part;
            const __mmask16 there = count > 0 ? first_columns(count) : 0;
            const __m512 values = _mm512_maskz_loadu_ps(there, x + j + part);
            const __m128i integers = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(values, inverse)));
            _mm_store_si128((__m128i *)(line + part), integers);
        }
}

static inline __m512i sizes_of(const float *x, idx width)
{
    __m512i sizes = _mm512_setzero_si512();
    for (idx j = 0; j < width; j += STRIPE)
        sizes = larger_size(sizes, _mm512_maskz_loadu_ps(first_columns(width - j), x + j));
    return sizes;
}

/* What follows the first product: the GELU, in rows of `columns` numbers, and the largest sizes of each row. */
typedef struct {
    const float *row_scales, *scales, *bias;
    float *active;
    __m512i *sizes;
    idx columns;
} ToIntegers;

INLINE void through_gelu_to_integers(const void *context, const float *sums, idx i, idx j, idx from, idx to)
{
    const ToIntegers *integers = context;
    for (int half = 0; half < 2; half++) {
        const idx column = j + half * STRIPE;
        const __m512 of_columns = _mm512_loadu_ps(integers->scales + column);
        const __m512 bias = _mm512_loadu_ps(integers->bias + column);
        for (idx r = from; r < to; r++) {
            const float *row_of = sums + r * BLOCK + half * STRIPE;
            const __m512 x = _mm512_add_ps(scaled(row_of, integers->row_scales[i + r], of_columns), bias);
            const __m512 active = _mm512_mul_ps(x, gelu_slopes(x, _mm512_mul_ps(x, x)));
            integers->sizes[i + r] = larger_size(integers->sizes[i + r], active);
            _mm512_storeu_ps(integers->active + (i + r) * integers->columns + column, active);
        }
    }
}

/* Where a thread has what it needs. */
typedef struct {
    float *sums, *row, *scales, *active;
    __m512i *sizes;
    char *normed, *rounded, *end;
} IntegerRoom;

static IntegerRoom integer_room(const IntegerMlp *mlp, void *room)
{
    const idx stripes = INTEGER_ROWS / STRIPE * TILE_BYTES;
    char *free = aligned(room);
    IntegerRoom parts;
    parts.sums = (float *)taken(&free, 2 * BLOCK * BLOCK_STEP);
    parts.row = (float *)taken(&free, mlp->width * sizeof(float));
    parts.scales = (float *)taken(&free, INTEGER_ROWS * sizeof(float));
    parts.sizes = (__m512i *)taken(&free, INTEGER_ROWS * sizeof(__m512i));
    parts.active = (float *)taken(&free, INTEGER_ROWS * parts_of(mlp->inner, BLOCK) * BLOCK_STEP);
    parts.normed = taken(&free, stripes * steps_of(mlp->width));
    parts.rounded = taken(&free, stripes * steps_of(mlp->inner));
    parts.end = free;
    return parts;
}

/* As tiled_mlp_forward, in integers: rows of the norm and of the hidden layer have a scale each. */
void integer_mlp_forward(const IntegerMlp *mlp, const MlpRows *all, idx first, idx rows, void *room)
{
    const idx width = mlp->width, inner = mlp->inner, steps = steps_of(width), inner_steps = steps_of(inner);
    const float *x = all->x + first * width;
    float *out = all->out + first * width;
    const idx columns = padded(inner, BLOCK);
    const IntegerRoom parts = integer_room(mlp, room);
    const TileShapes tiles = begin_tiles();
    for (idx start = 0; start < rows; start += INTEGER_ROWS) {
        const idx n = least(INTEGER_ROWS, rows - start);
        const float *here = x + start * width;
        for (idx i = 0; i < n; i++) {
            norm_row(here + i * width, mlp->norm_weight, mlp->norm_bias, parts.row, width, mlp->eps);
            parts.scales[i] = scale_of(sizes_of(parts.row, width));
            quantise_line(parts.row, parts.scales[i], width, line_of(parts.normed, i, steps));
            parts.sizes[i] = _mm512_setzero_si512();
        }
        const ToIntegers integers = {parts.scales, mlp->scales1, mlp->b1, parts.active, parts.sizes, columns};
        multiply(&(Product){parts.normed, mlp->w1, steps}, 1, n, inner, 1, parts.sums, through_gelu_to_integers,
            &integers);
        for (idx i = 0; i < n; i++) {
            parts.scales[i] = scale_of(parts.sizes[i]);
            quantise_line(parts.active + i * columns, parts.scales[i], inner, line_of(parts.rounded, i, inner_steps));
        }
        const ToResidual residual = {parts.scales, mlp->scales2, mlp->b2, here, out + start * width, width};
        multiply(&(Product){parts.rounded, mlp->w2, inner_steps}, 1, n, width, 1, parts.sums, add_scaled_residual,
            &residual);
    }
    end_tiles(&tiles);
}

/* Bytes of the room that a thread needs. */
idx integer_mlp_room(const IntegerMlp *mlp) { return integer_room(mlp, 0).end - (char *)0 + LINE_BYTES; }
#endif
