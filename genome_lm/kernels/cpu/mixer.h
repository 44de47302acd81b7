/* Pieces of the Hyena sub-block, each in one call: positions from the residual stream to the gated input of the long
 * convolution. Part of stages.c; see sub_blocks.h for products and threads.
 *
 * A piece is some successive rows of x, (batch * length, width), which are the columns of tensors that have channels
 * for rows. It is taken in tiles of TILE_ROWS positions, whose streams stay in the second-level cache.
 */
#define TILE_ROWS 256
#define AHEAD 16                   /* floats before a tile in a row; the last BACK hold the positions before it */
#define Z_STEP (AHEAD + TILE_ROWS) /* an odd number of cache lines, so that columns don't meet in a few sets */

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
