/* The final norm, the tied head and the loss of each row, forward and backward. Part of stages.c.
 *
 * Logits are 16 sums of a row's normed values: one vector register, as many rows at a time as hide its latency.
 */
#define SYMBOLS 16
#define HEAD_ROWS 4

typedef struct {
    const float *norm_weight, *norm_bias;
    const float *embedding, *columns; /* (SYMBOLS, width), and its transpose */
    idx width;
    float eps;
} Head;

/* The tensors whose rows are taken; the last two are of the way back. */
typedef struct {
    const float *x;
    const int32_t *targets;
    const float *weights;
    float *losses;
    const float *grad; /* of the losses */
    float *grad_x;
} HeadRows;

/* Floats of the room that a thread needs. */
idx head_room(idx width) { return (2 * HEAD_ROWS + 2) * width; }

/* The norm of up to HEAD_ROWS rows, each of `width` values in `normed`, and their logits. */
static void row_logits(const Head *head, const float *x, idx n, float *normed, float logits[HEAD_ROWS][SYMBOLS])
{
    const idx width = head->width;
    for (idx i = 0; i < n; i++)
        norm_row(x + i * width, head->norm_weight, head->norm_bias, normed + i * width, width, head->eps);
    float sums[HEAD_ROWS][SYMBOLS] = {{0.0f}};
    for (idx j = 0; j < width; j++)
        for (idx i = 0; i < HEAD_ROWS; i++) {
            const float value = normed[i * width + j];
            SIMD
            for (int s = 0; s < SYMBOLS; s++)
                sums[i][s] += value * head->columns[j * SYMBOLS + s];
        }
    memcpy(logits, sums, sizeof sums);
}

/* Logits become e^(logit - largest), whose sum is given, and the largest with it. */
static inline float powers(float *logits, float *largest)
{
    float most = logits[0], sum = 0.0f;
    for (int s = 1; s < SYMBOLS; s++)
        most = logits[s] > most ? logits[s] : most;
    for (int s = 0; s < SYMBOLS; s++)
        most = logits[s] == logits[s] ? most : logits[s]; /* what is not a number stays so */
    SIMD
    for (int s = 0; s < SYMBOLS; s++)
        logits[s] = exponential(logits[s] - most);
    for (int s = 0; s < SYMBOLS; s++)
        sum += logits[s];
    *largest = most;
    return sum;
}

/* The weighted losses of rows [first, first + rows). */
void head_forward(const Head *head, const HeadRows *all, idx first, idx rows, float *room)
{
    const idx width = head->width;
    memset(room, 0, HEAD_ROWS * width * sizeof(float)); /* for rows that are not there */
    for (idx start = first; start < first + rows; start += HEAD_ROWS) {
        const idx n = least(HEAD_ROWS, first + rows - start);
        float logits[HEAD_ROWS][SYMBOLS];
        row_logits(head, all->x + start * width, n, room, logits);
        for (idx i = 0; i < n; i++) {
            const float of_target = logits[i][all->targets[start + i]];
            float largest, sum = powers(logits[i], &largest);
            all->losses[start + i] = (__builtin_logf(sum) + largest - of_target) * all->weights[start + i];
        }
    }
}

/* `n` columns of the gradient of the norm of HEAD_ROWS rows, and what the rows add to that of the embedding. Rates are
 * the gradients of logits. */
static inline void back_through_columns(
    const Head *head, const float *normed, float rates[HEAD_ROWS][SYMBOLS], idx j, idx n, float *grad, float *sums)
{
    const idx width = head->width;
    float through[HEAD_ROWS][SYMBOLS] = {{0.0f}};
    for (int s = 0; s < SYMBOLS; s++) {
        const float *embedding = head->embedding + s * width + j;
        SIMD
        for (idx c = 0; c < n; c++) {
            float sum = sums[s * width + j + c];
            for (int i = 0; i < HEAD_ROWS; i++) {
                through[i][c] += rates[i][s] * embedding[c];
                sum += rates[i][s] * normed[i * width + j + c];
            }
            sums[s * width + j + c] = sum;
        }
    }
    for (int i = 0; i < HEAD_ROWS; i++)
        memcpy(grad + i * width + j, through[i], n * sizeof(float));
}

/* The gradient of x of these rows; those of the norm's weight and bias, and of the embedding, are added to the sums in
 * this order. */
void head_backward(
    const Head *head, const HeadRows *all, float *totals, int begins, idx first, idx rows, float *room)
{
    const idx width = head->width, whole = width - width % SYMBOLS;
    float *normed = room, *grad_normed = normed + HEAD_ROWS * width, *standard = grad_normed + HEAD_ROWS * width;
    float *nothing = standard + width;
    (void)begins;
    memset(normed, 0, HEAD_ROWS * width * sizeof(float));
    memset(nothing, 0, width * sizeof(float));
    for (idx start = first; start < first + rows; start += HEAD_ROWS) {
        const idx n = least(HEAD_ROWS, first + rows - start);
        float rates[HEAD_ROWS][SYMBOLS];
        row_logits(head, all->x + start * width, n, normed, rates);
        for (idx i = 0; i < n; i++) {
            const float factor = all->weights[start + i] * all->grad[start + i];
            float largest, sum = powers(rates[i], &largest);
            SIMD
            for (int s = 0; s < SYMBOLS; s++)
                rates[i][s] *= factor / sum;
            rates[i][all->targets[start + i]] -= factor;
        }
        memset(rates[n], 0, (HEAD_ROWS - n) * sizeof rates[0]);
        for (idx j = 0; j < whole; j += SYMBOLS)
            back_through_columns(head, normed, rates, j, SYMBOLS, grad_normed, totals + 2 * width);
        if (whole < width)
            back_through_columns(head, normed, rates, whole, width - whole, grad_normed, totals + 2 * width);
        for (idx i = 0; i < n; i++) {
            const idx at = (start + i) * width;
            norm_back_row(all->x + at, grad_normed + i * width, nothing, head->norm_weight, standard, all->grad_x + at,
                totals, totals + width, width, head->eps);
        }
    }
}
