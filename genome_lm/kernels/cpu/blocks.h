/* The Hyena sub-block between its projections with explicit filters of many taps: convolutions by FFTs of blocks of
 * positions, channel by channel. Part of stages.c; taps.py says how sequences are cut, and has the plain form.
 */
#define MOST_POINTS 8192

/* Transforms of one row of `points` values in place, of which there is room for two more. */
typedef struct {
    View kernel; /* (channels, count), the present position last */
    Transform forward, backward;
    void *to_spectrum, *to_values;
    idx sequences, length, step, points;
} Blocks;

/* y = x0 (c + skip u). */
typedef struct {
    View x0, u, skip, y;
} Gated;

/* The spectrum of n values that stand at point `at`, zeros elsewhere. */
static void spectrum_of(const Blocks *blocks, const float *x, idx at, idx n, float *values)
{
    memset(values, 0, (size_t)at * sizeof(float));
    memcpy(values + at, x, (size_t)n * sizeof(float));
    memset(values + at + n, 0, (size_t)(blocks->points + 2 - at - n) * sizeof(float));
    blocks->forward(blocks->to_spectrum, values);
}

/* The values of which a times b, or its conjugate for `sign` -1, is the spectrum. */
static void values_of(const Blocks *blocks, const float *a, const float *b, float sign, float *values)
{
    SIMD
    for (idx j = 0; j < blocks->points + 2; j += 2) {
        const float re = b[j], im = sign * b[j + 1];
        values[j] = a[j] * re - a[j + 1] * im;
        values[j + 1] = a[j] * im + a[j + 1] * re;
    }
    blocks->backward(blocks->to_values, values);
}

/* The spectrum of a block's values of u, n from `start` on, and of the count - 1 before them. */
static void spectrum_with_before(const Blocks *blocks, const float *u, idx start, idx n, float *values)
{
    const idx before = blocks->kernel.length - 1, back = least(start, before);
    spectrum_of(blocks, u + start - back, before - back, back + n, values);
}

/* Channels [first, first + count) of those of the views. */
void blocks_gated(const Blocks *blocks, const Gated *gated, idx first, idx count, void *room)
{
    (void)room;
    float of_taps[MOST_POINTS + 2], of_u[MOST_POINTS + 2], c[MOST_POINTS + 2];
    for (idx channel = first; channel < first + count; channel++) {
        const float skip = *row(gated->skip, 0, channel, 0);
        spectrum_of(blocks, row(blocks->kernel, 0, channel, 0), 0, blocks->kernel.length, of_taps);
        for (idx b = 0; b < blocks->sequences; b++)
            for (idx start = 0; start < blocks->length; start += blocks->step) {
                const idx n = least(blocks->step, blocks->length - start);
                const float *u = row(gated->u, 0, channel, b), *x0 = row(gated->x0, 0, channel, b) + start;
                float *y = row(gated->y, 0, channel, b) + start;
                spectrum_with_before(blocks, u, start, n, of_u);
                values_of(blocks, of_u, of_taps, -1.0f, c);
                SIMD
                for (idx i = 0; i < n; i++)
                    y[i] = x0[i] * (c[i] + skip * u[start + i]);
            }
    }
}

/* c and the gradient of u of a row; the product of spectra whose values are the taps' gradients is added to `sums`. */
static void back_through_blocks(
    const Blocks *blocks, const float *of_taps, const float *u, const float *dc, float *c, float *du, double *sums)
{
    const idx before = blocks->kernel.length - 1;
    float of_u[MOST_POINTS + 2], of_dc[MOST_POINTS + 2], values[MOST_POINTS + 2];
    for (idx start = 0; start < blocks->length; start += blocks->step) {
        const idx n = least(blocks->step, blocks->length - start), back = least(start, before);
        spectrum_with_before(blocks, u, start, n, of_u);
        spectrum_of(blocks, dc + start, 0, n, of_dc);
        SIMD
        for (idx j = 0; j < blocks->points + 2; j += 2) {
            sums[j] += of_u[j] * of_dc[j] + of_u[j + 1] * of_dc[j + 1];
            sums[j + 1] += of_u[j + 1] * of_dc[j] - of_u[j] * of_dc[j + 1];
        }
        values_of(blocks, of_u, of_taps, -1.0f, values);
        memcpy(c + start, values, (size_t)n * sizeof(float));
        values_of(blocks, of_dc, of_taps, 1.0f, values);
        /* It reaches back to positions of blocks that are done. */
        for (idx i = 0; i < back; i++)
            du[start - back + i] += values[before - back + i];
        memcpy(du + start, values + before, (size_t)n * sizeof(float));
    }
}

/* The convolutions of a channel on the way back; what is of one channel has no distance of channels. */
static void channel_back(const Blocks *blocks, const float *kernel, View u, View dc, View c, View du, float *kernel_sums)
{
    float of_taps[MOST_POINTS + 2], values[MOST_POINTS + 2];
    double sums[MOST_POINTS + 2];
    memset(sums, 0, (size_t)(blocks->points + 2) * sizeof(double));
    spectrum_of(blocks, kernel, 0, blocks->kernel.length, of_taps);
    for (idx b = 0; b < blocks->sequences; b++)
        back_through_blocks(blocks, of_taps, row(u, 0, 0, b), row(dc, 0, 0, b), row(c, 0, 0, b), row(du, 0, 0, b), sums);
    for (idx j = 0; j < blocks->points + 2; j++)
        values[j] = (float)sums[j];
    blocks->backward(blocks->to_values, values);
    memcpy(kernel_sums, values, (size_t)blocks->kernel.length * sizeof(float));
}

/* As explicit_backward, with room for 5 streams of a channel, (sequences * length) floats each. */
void blocks_backward(const Blocks *blocks, const ExplicitBack *back, idx first, idx count, float *room)
{
    const View u = in_room(back, room, 0, 1), dc = in_room(back, room, 1, 1);
    const View c = in_room(back, room, 3, 1), du = in_room(back, room, 4, 1);
    for (idx k = first; k < first + count; k++) {
        streams_inputs(back, k, k + 1, room);
        channel_back(blocks, row(back->kernel, 0, k, 0), u, dc, c, du, row(back->kernel_sums, 0, k, 0));
        streams_outputs(back, k, k + 1, c, du, room);
    }
}
