/* Pieces of the Hyena sub-block, each in one call: positions from the residual stream to the gated input of the long
 * convolution, and from its gated result back to it; and the same on the way back. Part of stages.c; see sub_blocks.h for
 * products and threads.
 *
 * A piece is some successive rows of x, (batch * length, width), which are the columns of tensors that have channels
 * for rows. It is taken in tiles of TILE_ROWS positions, whose streams stay in the second-level cache.
 */
#define TILE_ROWS 256
#define AHEAD 16                   /* floats before a tile in a row; the last BACK hold the positions before it */
#define Z_STEP (AHEAD + TILE_ROWS) /* an odd number of cache lines, so that columns don't meet in a few sets */
#define HALF_STEP (TILE_ROWS + 32) /* the same of bfloat16 */

/* Weights of a block of channels; `halved` as in Mlp. */
typedef struct {
    const float *norm_weight, *norm_bias;
    const void *w_in;                    /* (3 channels, width) */
    const float *b_in, *taps, *tap_bias; /* (3 channels), (3 channels, TAPS), (3 channels) */
    Gemm gemm;
    idx width, channels;
    float eps;
    int halved;
} Mixer;

/* The tensors whose pieces are taken; views are of channels, (batch * length) columns each. */
typedef struct {
    const float *x;
    View x0, u, kept; /* `kept` of 3 channels rows, or without data */
    idx length;       /* of a sequence */
} Gates;

/* Floats of the room that a thread needs. */
idx mixer_room(idx width, idx channels) { return 3 * channels * Z_STEP + 2 * TILE_ROWS * width; }

/* z of up to TILE_ROWS rows of x, with its bias, to rows of Z_STEP. */
static void project_tile(const Mixer *mixer, const float *x, idx rows, float *z, float *normed)
{
    const idx width = mixer->width, streams = 3 * mixer->channels;
    for (idx i = 0; i < rows; i++)
        norm_row(x + i * width, mixer->norm_weight, mixer->norm_bias, normed + i * width, width, mixer->eps);
    const void *inside = operand(normed, rows * width, (uint16_t *)(normed + TILE_ROWS * width), mixer->halved);
    mixer->gemm(ROW_MAJOR, AS_IT_IS, TRANSPOSED, streams, rows, width, 1.0f, mixer->w_in, width, inside, width, 0.0f, z,
        Z_STEP);
    for (idx s = 0; s < streams; s++) {
        float *here = z + s * Z_STEP;
        const float bias = mixer->b_in[s];
        SIMD
        for (idx i = 0; i < rows; i++)
            here[i] += bias;
    }
}

/* Let the last BACK of n positions, and of those before them, stand before the next tile. */
static inline void carry_on(float *z, idx streams, idx n)
{
    for (idx s = 0; s < streams; s++)
        memmove(z + s * Z_STEP - BACK, z + s * Z_STEP - BACK + n, BACK * sizeof(float));
}

/* Put what precedes a piece before its first tile: zeros, or z of the positions before it. */
static void begin_piece(const Mixer *mixer, const float *x, idx before, float *z, float *normed)
{
    const idx back = least(before, BACK), streams = 3 * mixer->channels;
    for (idx s = 0; s < streams; s++)
        memset(z + s * Z_STEP - BACK, 0, BACK * sizeof(float));
    if (back) {
        project_tile(mixer, x - back * mixer->width, back, z, normed);
        carry_on(z, streams, back);
    }
}

/* The three streams of a channel, after the short convolution, at n positions of one sequence. z of the positions
 * before them is set to zeros where the sequence begins. */
static inline void short_streams(const Mixer *mixer, idx c, float *z, idx n, int begins, float out[3][TILE_ROWS])
{
    for (idx s = 0; s < 3; s++) {
        const idx stream = s * mixer->channels + c;
        float *here = z + stream * Z_STEP;
        if (begins)
            memset(here - BACK, 0, BACK * sizeof(float));
        short_conv(here - BACK, mixer->taps + stream * TAPS, mixer->tap_bias[stream], out[s], n);
    }
}

/* x0 and u = x1 v of rows [first, first + rows) of x, unless u has no data, and z if it is to be kept. */
void mixer_gates(const Mixer *mixer, const Gates *gates, idx first, idx rows, float *room)
{
    const idx width = mixer->width, length = gates->length;
    float *z = room + AHEAD, *normed = room + 3 * mixer->channels * Z_STEP;
    if (gates->u.data)
        begin_piece(mixer, gates->x + first * width, first % length, z, normed);
    for (idx start = first; start < first + rows; start += TILE_ROWS) {
        const idx stop = least(start + TILE_ROWS, first + rows);
        project_tile(mixer, gates->x + start * width, stop - start, z, normed);
        for (idx s = 0; gates->kept.data && s < 3 * mixer->channels; s++)
            memcpy(row(gates->kept, 0, s, 0) + start, z + s * Z_STEP, (stop - start) * sizeof(float));
        if (!gates->u.data)
            continue;
        for (idx c = 0; c < mixer->channels; c++)
            for (idx from = start, n; from < stop; from += n) {
                n = least(length - from % length, stop - from);
                float out[3][TILE_ROWS], *gated = row(gates->u, 0, c, 0) + from;
                short_streams(mixer, c, z + (from - start), n, from % length == 0, out);
                memcpy(row(gates->x0, 0, c, 0) + from, out[0], n * sizeof(float));
                SIMD
                for (idx i = 0; i < n; i++)
                    gated[i] = out[1][i] * out[2][i];
            }
        carry_on(z, 3 * mixer->channels, stop - start);
    }
}

/* The out-projection; `halved` as in Mlp. */
typedef struct {
    const void *w_out; /* (width, width) */
    const float *b_out;
    Gemm gemm;
    idx width;
    int halved;
} Outward;

/* out = x + out_proj(y), where y has channels for rows; out may be x. On the way back x is the gradient of the result,
 * and y that of y, of `channels` from `channel` on. */
typedef struct {
    const float *x;
    View y;
    float *out;
    idx channel, channels;
} Joined;

/* The distance of rows, for a product: a view of a single one has none. */
static inline idx step_of(View v) { return v.channel > v.length ? v.channel : v.length; }

/* Floats of the room that a thread needs. */
idx mixer_out_room(idx width) { return width * HALF_STEP / 2; }

/* Write x + out_proj(y) of some rows: y of `step` columns a channel, rounded if products are. */
static void add_projected(const Outward *outward, const void *y, idx step, const float *x, float *out, idx rows)
{
    const idx width = outward->width;
    for (idx i = 0; i < rows * width; i += width) {
        SIMD
        for (idx j = 0; j < width; j++)
            out[i + j] = x[i + j] + outward->b_out[j];
    }
    outward->gemm(ROW_MAJOR, TRANSPOSED, TRANSPOSED, rows, width, width, 1.0f, y, step, outward->w_out, width, 1.0f,
        out, width);
}

/* Rows [first, first + rows). */
void mixer_out(const Outward *outward, const Joined *joined, idx first, idx rows, float *room)
{
    const idx width = outward->width;
    uint16_t *rounded = (uint16_t *)room;
    for (idx start = first; start < first + rows; start += TILE_ROWS) {
        const idx n = least(TILE_ROWS, first + rows - start);
        for (idx c = 0; outward->halved && c < width; c++)
            narrow_row(row(joined->y, 0, c, 0) + start, rounded + c * HALF_STEP, n);
        const void *y = outward->halved ? (const void *)rounded : joined->y.data + start;
        add_projected(outward, y, outward->halved ? HALF_STEP : step_of(joined->y), joined->x + start * width,
            joined->out + start * width, n);
    }
}

/* The same on the way back. */
void mixer_out_back(const Outward *outward, const Joined *joined, idx first, idx rows, float *room)
{
    const idx width = outward->width;
    const void *w_out = outward->halved ? (const void *)((const uint16_t *)outward->w_out + joined->channel)
                                        : (const float *)outward->w_out + joined->channel;
    for (idx start = first; start < first + rows; start += TILE_ROWS) {
        const idx n = least(TILE_ROWS, first + rows - start);
        const void *grad = operand(joined->x + start * width, n * width, (uint16_t *)room, outward->halved);
        outward->gemm(ROW_MAJOR, TRANSPOSED, TRANSPOSED, joined->channels, n, width, 1.0f, w_out, width, grad, width,
            0.0f, joined->y.data + start, step_of(joined->y));
    }
}

/* The way back from the gradient of z, and y, to that of x, or of its norm for a block of several. */
typedef struct {
    const float *x, *grad; /* the gradient of the sub-block's result */
    View dz, y;
    float *grad_normed; /* of all rows, of which the first block writes what others add to; or 0, and grad_x is written */
    float *grad_x;
    int adds;
} Back;

/* Sums of the weights' gradients, in one array; the first three, which begin as zeros, are there with grad_x alone. */
typedef struct {
    float *norm_weight, *norm_bias, *b_out;
    float *w_in, *w_out; /* (3 channels, width), (width, channels) */
} MixerSums;

static inline MixerSums mixer_sums(float *sums, idx width, idx channels, int of_norm)
{
    float *w_in = sums + (of_norm ? 3 * width : 0);
    return (MixerSums){sums, sums + width, sums + 2 * width, w_in, w_in + 3 * channels * width};
}

/* Floats of the room that a thread needs. */
idx mixer_back_room(idx width, idx channels) { return 3 * TILE_ROWS * width + 4 * channels * HALF_STEP / 2; }

static inline View rows_at(const float *data, idx width) { return (View){(float *)data, 0, width, 0, width}; }

/* A tile of columns as products read them, with their distance in `step`. */
static inline const void *columns(View v, idx channels, idx start, idx n, uint16_t *room, int halved, idx *step)
{
    *step = halved ? HALF_STEP : step_of(v);
    if (!halved)
        return v.data + start;
    for (idx c = 0; c < channels; c++)
        narrow_row(row(v, 0, c, 0) + start, room + c * HALF_STEP, n);
    return room;
}

/* Rows [first, first + rows). The gradients of the weights are added to the sums, or where a piece begins them, those
 * of w_in and w_out are written. */
void mixer_back(const Mixer *mixer, const Back *back, float *totals, int begins, idx first, idx rows, float *room)
{
    const idx width = mixer->width, channels = mixer->channels;
    const MixerSums sums = mixer_sums(totals, width, channels, back->grad_x != 0);
    const int halved = mixer->halved;
    float *normed = room, *through = normed + TILE_ROWS * width;
    uint16_t *rounded = (uint16_t *)(through + TILE_ROWS * width), *rounded_grad = rounded + TILE_ROWS * width;
    uint16_t *rounded_z = rounded_grad + TILE_ROWS * width, *rounded_y = rounded_z + 3 * channels * HALF_STEP;
    for (idx start = first; start < first + rows; start += TILE_ROWS) {
        const idx n = least(TILE_ROWS, first + rows - start);
        const float *x = back->x + start * width, *direct = back->grad + start * width;
        float *inside = back->grad_normed ? back->grad_normed + start * width : through;
        const float beta = begins && start == first ? 0.0f : 1.0f;
        idx z_step, y_step;
        for (idx i = 0; i < n; i++)
            norm_row(x + i * width, mixer->norm_weight, mixer->norm_bias, normed + i * width, width, mixer->eps);
        const void *norms = operand(normed, n * width, rounded, halved);
        const void *grad = operand(direct, n * width, rounded_grad, halved);
        const void *dz = columns(back->dz, 3 * channels, start, n, rounded_z, halved, &z_step);
        const void *y = columns(back->y, channels, start, n, rounded_y, halved, &y_step);
        mixer->gemm(ROW_MAJOR, AS_IT_IS, AS_IT_IS, 3 * channels, width, n, 1.0f, dz, z_step, norms, width, beta,
            sums.w_in, width);
        mixer->gemm(ROW_MAJOR, TRANSPOSED, TRANSPOSED, width, channels, n, 1.0f, grad, width, y, y_step, beta,
            sums.w_out, channels);
        mixer->gemm(ROW_MAJOR, TRANSPOSED, AS_IT_IS, n, width, 3 * channels, 1.0f, dz, z_step, mixer->w_in, width,
            back->adds ? 1.0f : 0.0f, inside, width);
        if (back->grad_x)
            norm_backward(rows_at(x, width), rows_at(inside, width), rows_at(direct, width),
                rows_at(mixer->norm_weight, width), mixer->eps, rows_at(back->grad_x + start * width, width),
                rows_at(sums.norm_weight, width), rows_at(sums.norm_bias, width), rows_at(sums.b_out, width),
                (Shape){n, 1, width});
    }
}
