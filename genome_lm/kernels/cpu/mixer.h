/* Pieces of the Hyena sub-block, each in one call: positions from the residual stream to the gated input of the long
 * convolution, and from its gated result back; where the filters are a few taps, all the way. Part of stages.c; see
 * sub_blocks.h for products and threads.
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
idx mixer_room(const Mixer *mixer) { return 3 * mixer->channels * Z_STEP + 2 * TILE_ROWS * mixer->width; }

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

/* out = x + out_proj(y), where y has channels for rows; out may be x. */
typedef struct {
    const float *x;
    View y;
    float *out;
} Joined;

/* Floats of the room that a thread needs. */
idx mixer_out_room(const Outward *outward) { return outward->width * HALF_STEP / 2; }

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
        add_projected(outward, y, outward->halved ? HALF_STEP : joined->y.channel, joined->x + start * width,
            joined->out + start * width, n);
    }
}

/* The sub-block with explicit filters of `count` taps, (width, count), up to MOST_TAPS; skip (width). */
typedef struct {
    const Mixer *mixer; /* of all channels */
    const Outward *outward;
    const float *kernel, *skip;
    idx count;
} Explicit;

/* out may be x. */
typedef struct {
    const float *x;
    float *out;
    View kept; /* as in Gates */
    idx length;
} Through;

/* What a thread needs: room for z and norms as in mixer_gates, the last AHEAD values of u of each channel, and y. */
idx explicit_room(const Explicit *block)
{
    return mixer_room(block->mixer) + block->mixer->width * (AHEAD + Z_STEP);
}

/* y of a channel at n positions from `at` on, whose z is in the tile: all within one sequence. u holds the AHEAD
 * values before the tile and those of the tile up to `at`; its own are added. */
static inline void explicit_channel(const Explicit *block, idx c, float *z, float *u, idx at, idx n, int begins, float *y)
{
    float out[3][TILE_ROWS], sums[TILE_ROWS + SPAN], *own = u + AHEAD + at;
    const float skip = block->skip[c];
    short_streams(block->mixer, c, z + at, n, begins, out);
    if (begins)
        memset(own - AHEAD, 0, AHEAD * sizeof(float));
    SIMD
    for (idx i = 0; i < n; i++)
        own[i] = out[1][i] * out[2][i];
    sums_of_taps(block->kernel + c * block->count, block->count, own - (block->count - 1), sums, n);
    SIMD
    for (idx i = 0; i < n; i++)
        y[at + i] = out[0][i] * (sums[i] + skip * own[i]);
}

/* y of a tile of n positions, the first of which is `position` of its sequence, rounded if products are. */
static void explicit_tile(const Explicit *block, float *z, float *carry, idx n, idx position, idx length, float *y)
{
    for (idx c = 0; c < block->mixer->width; c++) {
        float u[AHEAD + TILE_ROWS + SPAN] = {0.0f}, gated[TILE_ROWS];
        memcpy(u, carry + c * AHEAD, AHEAD * sizeof(float));
        for (idx at = 0, step; at < n; at += step) {
            const idx place = (position + at) % length;
            step = least(length - place, n - at);
            explicit_channel(block, c, z, u, at, step, place == 0, gated);
        }
        memcpy(carry + c * AHEAD, u + n, AHEAD * sizeof(float));
        if (block->outward->halved)
            narrow_row(gated, (uint16_t *)y + c * HALF_STEP, n);
        else
            memcpy(y + c * Z_STEP, gated, n * sizeof(float));
    }
    carry_on(z, 3 * block->mixer->channels, n);
}

/* Rows [first, first + rows); `before` holds the `back` rows before them, within their sequence: up to BACK + count - 1,
 * which another thread may have written over where they were. */
void explicit_forward(
    const Explicit *block, const Through *through, const float *before, idx back, idx first, idx rows, float *room)
{
    const Mixer *mixer = block->mixer;
    const idx width = mixer->width, length = through->length;
    float *z = room + AHEAD, *normed = room + 3 * width * Z_STEP, *carry = room + mixer_room(mixer);
    float *y = carry + width * AHEAD;
    begin_piece(mixer, 0, 0, z, normed);
    memset(carry, 0, width * AHEAD * sizeof(float));
    if (back) {
        project_tile(mixer, before, back, z, normed);
        explicit_tile(block, z, carry, back, first % length - back, length, y);
    }
    for (idx start = first; start < first + rows; start += TILE_ROWS) {
        const idx n = least(TILE_ROWS, first + rows - start);
        project_tile(mixer, through->x + start * width, n, z, normed);
        for (idx s = 0; through->kept.data && s < 3 * width; s++)
            memcpy(row(through->kept, 0, s, 0) + start, z + s * Z_STEP, n * sizeof(float));
        explicit_tile(block, z, carry, n, start % length, length, y);
        add_projected(block->outward, y, block->outward->halved ? HALF_STEP : Z_STEP, through->x + start * width,
            through->out + start * width, n);
    }
}
