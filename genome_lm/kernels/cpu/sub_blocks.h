/* Pieces of a residual sub-block, each in one call: rows of positions through norm, matrix products and what stands
 * between them. Part of stages.c, whose functions of single values it uses.
 *
 * The products are the caller's BLAS, whose functions for float and for bfloat16 with float sums differ by the type of
 * their operands alone. A call runs on the thread that makes it, in tiles of ROWS rows that stay in its caches.
 */
#define ROWS 128
#define ROW_MAJOR 101
#define AS_IT_IS 111
#define TRANSPOSED 112

typedef void (*Gemm)(int layout, int order_a, int order_b, int64_t m, int64_t n, int64_t k, float alpha, const void *a,
    int64_t step_a, const void *b, int64_t step_b, float beta, float *c, int64_t step_c);

/* Fortran's product of float, which has columns for rows: the caller sets it before `float_gemm` is used. */
typedef void (*Sgemm)(const char *order_a, const char *order_b, const int *m, const int *n, const int *k,
    const float *alpha, const void *a, const int *step_a, const void *b, const int *step_b, const float *beta, float *c,
    const int *step_c);
Sgemm sgemm = 0;

void float_gemm(int layout, int order_a, int order_b, int64_t m, int64_t n, int64_t k, float alpha, const void *a,
    int64_t step_a, const void *b, int64_t step_b, float beta, float *c, int64_t step_c)
{
    const int columns = (int)m, rows = (int)n, inner = (int)k, a_step = (int)step_a, b_step = (int)step_b,
              c_step = (int)step_c;
    (void)layout;
    sgemm(order_b == TRANSPOSED ? "T" : "N", order_a == TRANSPOSED ? "T" : "N", &rows, &columns, &inner, &alpha, b,
        &b_step, a, &a_step, &beta, c, &c_step);
}

/* `halved`: operands of products are bfloat16, w1 and w2 with them. */
typedef struct {
    const float *norm_weight, *norm_bias;
    const void *w1;
    const float *b1;
    const void *w2;
    const float *b2;
    Gemm gemm;
    idx width, inner;
    float eps;
    int halved;
} Mlp;

/* The tensors whose rows are taken, of `width` values each; `kept` of `inner` ones, or 0. The last two are of the way
 * back. */
typedef struct {
    const float *x;
    float *out, *kept;
    const float *grad;
    float *grad_x;
} MlpRows;

/* Sums of the weights' gradients, in one array, of which all but the last two begin as zeros; that of w2 as (inner,
 * width), or as the caller says. */
typedef struct {
    float *norm_weight, *norm_bias, *b1, *b2, *w1, *w2;
} MlpSums;

static inline MlpSums mlp_sums(float *sums, idx width, idx inner)
{
    float *b1 = sums + 2 * width, *b2 = b1 + inner, *w1 = b2 + width;
    return (MlpSums){sums, sums + width, b1, b2, w1, w1 + width * inner};
}

/* Rows as a product reads them: as they are, or rounded in `room`. */
static inline const void *operand(const float *x, idx count, uint16_t *room, int halved)
{
    if (!halved)
        return x;
    narrow_row(x, room, count);
    return room;
}

/* (x - mean) * rstd of a row. */
static inline void standardised(const float *x, float *out, idx width, float eps, float *rstd)
{
    float sum = 0.0f, squares = 0.0f;
    _Pragma("omp simd reduction(+ : sum)")
    for (idx j = 0; j < width; j++)
        sum += x[j];
    const float mean = sum / (float)width;
    _Pragma("omp simd reduction(+ : squares)")
    for (idx j = 0; j < width; j++)
        squares += (x[j] - mean) * (x[j] - mean);
    *rstd = 1.0f / __builtin_sqrtf(squares / (float)width + eps);
    SIMD
    for (idx j = 0; j < width; j++)
        out[j] = (x[j] - mean) * *rstd;
}

/* The norm of a row. */
static inline void norm_row(const float *x, const float *weight, const float *bias, float *out, idx width, float eps)
{
    float rstd;
    standardised(x, out, width, eps, &rstd);
    SIMD
    for (idx j = 0; j < width; j++)
        out[j] = out[j] * weight[j] + bias[j];
}

/* out = gelu(h + bias), of a row; out may be h. */
static inline void gelu_row(const float *h, float *out, const float *bias, idx inner, int halved)
{
    if (halved) {
        SIMD
        for (idx j = 0; j < inner; j++) {
            const float x = h[j] + bias[j];
            out[j] = x * rough_gelu_slope(x, x * x);
        }
        return;
    }
    SIMD
    for (idx j = 0; j < inner; j++) {
        const float x = h[j] + bias[j];
        out[j] = x * gelu_slope(x, x * x);
    }
}

/* As gelu_row, and the gradient g is taken through it and added to the sums. */
static inline void gelu_back_row(
    const float *h, float *out, float *g, const float *bias, float *sums, idx inner, int halved)
{
#define THROUGH_GELU(slope_of)                                                                                        \
    SIMD                                                                                                              \
    for (idx j = 0; j < inner; j++) {                                                                                 \
        const float x = h[j] + bias[j], square = x * x, s = slope_of(x, square), active = x * s;                      \
        out[j] = active;                                                                                              \
        g[j] *= s + active * (1.0f - s) * GELU_A * (1.0f + 3.0f * GELU_B * square);                                   \
        sums[j] += g[j];                                                                                              \
    }
    if (halved) {
        THROUGH_GELU(rough_gelu_slope)
    } else {
        THROUGH_GELU(gelu_slope)
    }
#undef THROUGH_GELU
}

/* Floats of the room that a thread needs. */
idx mlp_room(idx width, idx inner) { return ROWS * (3 * width + 3 * inner + 1); }

/* out = x + fc2(gelu(fc1(norm(x)))) of rows [first, first + rows); out may be x. Unless it is 0, `kept` gets the hidden
 * layer before its bias, for `mlp_backward`. */
void mlp_forward(const Mlp *mlp, const MlpRows *all, idx first, idx rows, float *room)
{
    const idx width = mlp->width, inner = mlp->inner;
    const float *x = all->x + first * width;
    float *out = all->out + first * width, *kept = all->kept ? all->kept + first * inner : 0;
    float *active = room, *normed = active + ROWS * inner;
    uint16_t *rounded = (uint16_t *)(normed + ROWS * width), *rounded_normed = rounded + ROWS * inner;
    for (idx start = 0; start < rows; start += ROWS) {
        const idx n = least(ROWS, rows - start);
        const float *here = x + start * width;
        float *target = out + start * width, *hidden = kept ? kept + start * inner : active;
        for (idx i = 0; i < n; i++)
            norm_row(here + i * width, mlp->norm_weight, mlp->norm_bias, normed + i * width, width, mlp->eps);
        const void *inside = operand(normed, n * width, rounded_normed, mlp->halved);
        mlp->gemm(ROW_MAJOR, AS_IT_IS, TRANSPOSED, n, inner, width, 1.0f, inside, width, mlp->w1, width, 0.0f, hidden,
            inner);
        for (idx i = 0; i < n; i++) {
            gelu_row(hidden + i * inner, active + i * inner, mlp->b1, inner, mlp->halved);
            operand(active + i * inner, inner, rounded + i * inner, mlp->halved);
            SIMD
            for (idx j = 0; j < width; j++)
                target[i * width + j] = here[i * width + j] + mlp->b2[j];
        }
        const void *outward = mlp->halved ? (const void *)rounded : active;
        mlp->gemm(ROW_MAJOR, AS_IT_IS, TRANSPOSED, n, width, inner, 1.0f, outward, inner, mlp->w2, inner, 1.0f, target,
            width);
    }
}

/* A row's gradient through the norm, added to `direct`, and what the row adds to the sums for its weight and bias. */
static inline void norm_back_row(const float *x, const float *grad, const float *direct, const float *weight,
    float *standard, float *out, float *weight_sums, float *bias_sums, idx width, float eps)
{
    float rstd, mean = 0.0f, along = 0.0f;
    standardised(x, standard, width, eps, &rstd);
    _Pragma("omp simd reduction(+ : mean, along)")
    for (idx j = 0; j < width; j++) {
        const float weighted = grad[j] * weight[j];
        mean += weighted;
        along += weighted * standard[j];
        weight_sums[j] += grad[j] * standard[j];
        bias_sums[j] += grad[j];
    }
    mean /= (float)width;
    along /= (float)width;
    SIMD
    for (idx j = 0; j < width; j++)
        out[j] = direct[j] + rstd * (grad[j] * weight[j] - mean - standard[j] * along);
}

/* The gradient of x for that of `mlp_forward`'s result; those of the weights are added to the sums, or where a piece
 * begins them, those of w1 and w2 are written. Without `kept` the hidden layer is computed again. */
void mlp_backward(const Mlp *mlp, const MlpRows *all, float *totals, int begins, idx first, idx rows, float *room)
{
    const idx width = mlp->width, inner = mlp->inner;
    const int halved = mlp->halved;
    const float *x = all->x + first * width, *grad = all->grad + first * width;
    const float *kept = all->kept ? all->kept + first * inner : 0;
    float *grad_x = all->grad_x + first * width;
    const MlpSums sums = mlp_sums(totals, width, inner);
    float *active = room, *through = active + ROWS * inner, *normed = through + ROWS * inner;
    float *standard = normed + ROWS * width;
    uint16_t *rounded_active = (uint16_t *)(standard + width), *rounded_through = rounded_active + ROWS * inner;
    uint16_t *rounded_normed = rounded_through + ROWS * inner, *rounded_grad = rounded_normed + ROWS * width;
    for (idx start = 0; start < rows; start += ROWS) {
        const idx n = least(ROWS, rows - start);
        const float *here = x + start * width, *back = grad + start * width;
        const float *hidden = kept ? kept + start * inner : active;
        const float beta = begins && start == 0 ? 0.0f : 1.0f;
        for (idx i = 0; i < n; i++) {
            norm_row(here + i * width, mlp->norm_weight, mlp->norm_bias, normed + i * width, width, mlp->eps);
            SIMD
            for (idx j = 0; j < width; j++)
                sums.b2[j] += back[i * width + j];
        }
        const void *inside = operand(normed, n * width, rounded_normed, halved);
        const void *out = operand(back, n * width, rounded_grad, halved);
        if (!kept)
            mlp->gemm(ROW_MAJOR, AS_IT_IS, TRANSPOSED, n, inner, width, 1.0f, inside, width, mlp->w1, width, 0.0f,
                active, inner);
        mlp->gemm(ROW_MAJOR, AS_IT_IS, AS_IT_IS, n, inner, width, 1.0f, out, width, mlp->w2, inner, 0.0f, through,
            inner);
        for (idx i = 0; i < n; i++) {
            float *h = active + i * inner, *g = through + i * inner;
            gelu_back_row(hidden + i * inner, h, g, mlp->b1, sums.b1, inner, halved);
            operand(h, inner, rounded_active + i * inner, halved);
            operand(g, inner, rounded_through + i * inner, halved);
        }
        const void *outward = halved ? (const void *)rounded_active : active;
        const void *inward = halved ? (const void *)rounded_through : through;
        mlp->gemm(ROW_MAJOR, TRANSPOSED, AS_IT_IS, inner, width, n, 1.0f, outward, inner, out, width, beta, sums.w2,
            width);
        mlp->gemm(ROW_MAJOR, TRANSPOSED, AS_IT_IS, inner, width, n, 1.0f, inward, inner, inside, width, beta, sums.w1,
            width);
        /* The norm is no longer needed. */
        mlp->gemm(ROW_MAJOR, AS_IT_IS, AS_IT_IS, n, width, inner, 1.0f, inward, inner, mlp->w1, width, 0.0f, normed,
            width);
        for (idx i = 0; i < n; i++)
            norm_back_row(here + i * width, normed + i * width, back + i * width, mlp->norm_weight, standard,
                grad_x + (start + i) * width, sums.norm_weight, sums.norm_bias, width, mlp->eps);
    }
}

/* The norm of rows, rounded. */
void norm_bfloat16(View x, View weight, View bias, float eps, View out, Shape shape)
{
    float normed[shape.length];
    for (idx i = 0; i < shape.channels; i++) {
        norm_row(row(x, 0, i, 0), weight.data, bias.data, normed, shape.length, eps);
        narrow_row(normed, halves(out, i), shape.length);
    }
}

/* Rows of a gradient through the norm, added to `direct`. The rows' own sums are added to the sums at once, so that
 * rounding does not grow with the number of pieces. */
void norm_backward(View x, View grad, View direct, View weight, float eps, View out, View weight_sums, View bias_sums,
    View direct_sums, Shape shape)
{
    const idx width = shape.length;
    float standard[width], of_weight[width], of_bias[width], of_direct[width];
    for (idx j = 0; j < width; j++)
        of_weight[j] = of_bias[j] = of_direct[j] = 0.0f;
    for (idx i = 0; i < shape.channels; i++) {
        const float *passing = row(direct, 0, i, 0);
        SIMD
        for (idx j = 0; j < width; j++)
            of_direct[j] += passing[j];
        norm_back_row(row(x, 0, i, 0), row(grad, 0, i, 0), passing, weight.data, standard, row(out, 0, i, 0), of_weight,
            of_bias, width, eps);
    }
    for (idx j = 0; j < width; j++) {
        weight_sums.data[j] += of_weight[j];
        bias_sums.data[j] += of_bias[j];
        direct_sums.data[j] += of_direct[j];
    }
}
