/* The Hyena sub-block with explicit filters of a few taps: forward a piece of positions in one call, and back some
 * channels, between the projections, in one. Part of stages.c; see mixer.h, whose functions it uses.
 */
/* The sub-block with explicit filters of `count` taps, (width, count), up to MOST_TAPS; skip (width). */
typedef struct {
    const Mixer *mixer; /* of all channels */
    const Outward *outward;
    const float *kernel, *skip;
    idx count;
} Explicit;

/* out may be x. What stands before the first row of a piece, up to BACK + count - 1 rows of its sequence, is read from
 * x, or from `before` where another thread may have written over it: `back` rows, of a single piece. */
typedef struct {
    const float *x;
    float *out;
    View kept; /* as in Gates */
    idx length;
    const float *before;
    idx back;
} Through;

/* What a thread needs: room for z and norms as in mixer_gates, the last AHEAD values of u of each channel, and y. */
idx explicit_room(idx width) { return mixer_room(width, width) + width * (AHEAD + Z_STEP); }

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

/* Rows [first, first + rows). */
void explicit_forward(const Explicit *block, const Through *through, idx first, idx rows, float *room)
{
    const Mixer *mixer = block->mixer;
    const idx width = mixer->width, length = through->length;
    const idx back = through->before ? through->back : least(first % length, BACK + block->count - 1);
    const float *before = through->before ? through->before : through->x + (first - back) * width;
    float *z = room + AHEAD, *normed = room + 3 * width * Z_STEP, *carry = room + mixer_room(width, width);
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

/* The way back through explicit filters: z and the gradient of y become the gradient of z and y. Of each channel there
 * are the kernel's taps (count), skip (1), and of its streams taps (TAPS) and tap_bias (1); the sums are their
 * gradients, and z_sums those of the in-projection's bias. */
typedef struct {
    View z, y, kernel, skip, taps, tap_bias, kernel_sums, skip_sums, tap_sums, bias_sums, z_sums;
    idx sequences, length;
} ExplicitBack;

typedef struct {
    double kernel[MOST_TAPS], skip, taps[3][TAPS], bias[3], z[3];
} Totals;

#define FAR (BACK + MOST_TAPS) /* positions after a tile whose gradients reach into it */
#define REACHED (TILE + FAR + SPAN)

/* A tile of one channel, with the positions before and after it. Values after `far` positions are zeros. */
typedef struct {
    float z[3][BACK + TILE + FAR], x0[TILE + FAR], x1[TILE + FAR], v[TILE + FAR];
    float u[AHEAD + REACHED], c[REACHED], dc[REACHED], du[REACHED], grads[3][TILE + FAR];
} Tile;

/* The streams, both inputs of the convolutions, and what these give, from z and dy. */
static void explicit_inputs(
    const ExplicitBack *back, idx channel, const float *dy, idx there, idx far, Tile *tile)
{
    const idx count = back->kernel.length;
    const float *kernel = row(back->kernel, 0, channel, 0);
    float reversed[MOST_TAPS], *out[3] = {tile->x0, tile->x1, tile->v}, *u = tile->u + AHEAD;
    for (idx k = 0; k < count; k++)
        reversed[k] = kernel[count - 1 - k];
    for (idx s = 0; s < 3; s++)
        short_conv(tile->z[s], row(back->taps, s, channel, 0), *row(back->tap_bias, s, channel, 0), out[s],
            s == 0 ? far : there);
    SIMD
    for (idx i = 0; i < there; i++)
        u[i] = tile->x1[i] * tile->v[i];
    SIMD
    for (idx i = 0; i < far; i++)
        tile->dc[i] = dy[i] * tile->x0[i];
    memset(tile->dc + far, 0, (REACHED - far) * sizeof(float));
    sums_of_taps(kernel, count, u - (count - 1), tile->c, there);
    sums_of_taps(reversed, count, tile->dc, tile->du, there);
}

/* Gradients of the streams at `there` positions, zeros behind them; y of n is written over its gradient. */
static void explicit_grads(float skip, float *dy, idx n, idx there, Tile *tile, Totals *totals)
{
    const float *u = tile->u + AHEAD;
    float sum = 0.0f;
    SIMD
    for (idx i = 0; i < there; i++) {
        const float grad = tile->du[i] + skip * tile->dc[i];
        tile->c[i] += skip * u[i];
        tile->grads[0][i] = dy[i] * tile->c[i];
        tile->grads[1][i] = grad * tile->v[i];
        tile->grads[2][i] = grad * tile->x1[i];
    }
    for (idx s = 0; s < 3; s++)
        for (idx i = there; i < n + BACK; i++)
            tile->grads[s][i] = 0.0f;
    _Pragma("omp simd reduction(+ : sum)")
    for (idx i = 0; i < n; i++) {
        sum += tile->dc[i] * u[i];
        dy[i] = tile->x0[i] * tile->c[i];
    }
    totals->skip += sum;
}

/* The gradient of a stream of z, written to dz, and the sums of its short convolution. */
static void explicit_stream(const float *g, const float *t, const float *taps, float *dz, idx n, idx s, Totals *totals)
{
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, total = 0.0f, of_z = 0.0f;
    const float t0 = taps[0], t1 = taps[1], t2 = taps[2];
    _Pragma("omp simd reduction(+ : s0, s1, s2, total, of_z)")
    for (idx i = 0; i < n; i++) {
        const float grad = t2 * g[i] + t1 * g[i + 1] + t0 * g[i + 2];
        dz[i] = grad;
        of_z += grad;
        s0 += g[i] * t[i];
        s1 += g[i] * t[i + 1];
        s2 += g[i] * t[i + 2];
        total += g[i];
    }
    totals->taps[s][0] += s0, totals->taps[s][1] += s1, totals->taps[s][2] += s2;
    totals->bias[s] += total, totals->z[s] += of_z;
}

static void explicit_back_row(const ExplicitBack *back, idx channel, idx sequence, Totals *totals)
{
    const idx count = back->kernel.length, length = back->length;
    Tile tile;
    memset(tile.u, 0, sizeof tile.u);
    for (idx s = 0; s < 3; s++)
        memset(tile.z[s], 0, BACK * sizeof(float));
    for (idx start = 0; start < length; start += TILE) {
        const idx n = least(TILE, length - start), there = least(n + BACK, length - start);
        const idx far = least(n + BACK + count - 1, length - start);
        float *dy = row(back->y, 0, channel, sequence) + start;
        for (idx s = 0; s < 3; s++)
            memcpy(tile.z[s] + BACK, row(back->z, s, channel, sequence) + start, far * sizeof(float));
        explicit_inputs(back, channel, dy, there, far, &tile);
        for (idx k = 0; k < count; k++) {
            const float *u = tile.u + AHEAD - (count - 1) + k;
            float sum = 0.0f;
            _Pragma("omp simd reduction(+ : sum)")
            for (idx i = 0; i < n; i++)
                sum += tile.dc[i] * u[i];
            totals->kernel[k] += sum;
        }
        explicit_grads(*row(back->skip, 0, channel, 0), dy, n, there, &tile, totals);
        /* What is before the next tile is written over here, and kept. */
        for (idx s = 0; s < 3; s++) {
            explicit_stream(tile.grads[s], tile.z[s], row(back->taps, s, channel, 0),
                row(back->z, s, channel, sequence) + start, n, s, totals);
            memmove(tile.z[s], tile.z[s] + n, BACK * sizeof(float));
        }
        memmove(tile.u, tile.u + n, AHEAD * sizeof(float));
    }
}

/* Channels [first, first + count) of those of the views. */
void explicit_backward(const ExplicitBack *back, const void *none, idx first, idx count, void *room)
{
    (void)none, (void)room;
    for (idx c = first; c < first + count; c++) {
        Totals totals;
        memset(&totals, 0, sizeof totals);
        for (idx b = 0; b < back->sequences; b++)
            explicit_back_row(back, c, b, &totals);
        for (idx k = 0; k < back->kernel.length; k++)
            row(back->kernel_sums, 0, c, 0)[k] = (float)totals.kernel[k];
        *row(back->skip_sums, 0, c, 0) = (float)totals.skip;
        for (idx s = 0; s < 3; s++) {
            for (idx k = 0; k < TAPS; k++)
                row(back->tap_sums, s, c, 0)[k] = (float)totals.taps[s][k];
            *row(back->bias_sums, s, c, 0) = (float)totals.bias[s];
            *row(back->z_sums, s, c, 0) = (float)totals.z[s];
        }
    }
}

static inline View from_channel(View v, idx channel)
{
    v.data += channel * v.channel;
    return v;
}

/* A stream of some channels in `room`, which has several one after the other. */
static inline View in_room(const ExplicitBack *back, float *room, idx stream, idx channels)
{
    const idx size = back->sequences * back->length;
    return (View){room + stream * channels * size, 0, size, back->length, back->length};
}

/* What goes through the convolutions of channels [first, stop): u and dc, the first two streams in `room`. */
void streams_inputs(const ExplicitBack *back, idx first, idx stop, float *room)
{
    const idx channels = stop - first;
    conv_inputs(from_channel(back->z, first), from_channel(back->y, first), from_channel(back->taps, first),
        from_channel(back->tap_bias, first), in_room(back, room, 0, channels), in_room(back, room, 1, channels),
        (Shape){channels, back->sequences, back->length});
}

/* As explicit_backward, from what the convolutions gave: c and the gradient of u. The third stream in `room` is
 * written to. */
void streams_outputs(const ExplicitBack *back, idx first, idx stop, View c, View du, float *room)
{
    const idx channels = stop - first;
    const Shape shape = {channels, back->sequences, back->length};
    const View u = in_room(back, room, 0, channels), dc = in_room(back, room, 1, channels);
    const View dx0 = in_room(back, room, 2, channels), z = from_channel(back->z, first);
    const View skip = from_channel(back->skip, first), taps = from_channel(back->taps, first);
    const View tap_bias = from_channel(back->tap_bias, first);
    gate_backward(z, from_channel(back->y, first), c, u, skip, taps, tap_bias, dx0,
        from_channel(back->skip_sums, first), shape);
    streams_backward(z, dx0, du, dc, skip, taps, tap_bias, from_channel(back->tap_sums, first),
        from_channel(back->bias_sums, first), shape);
    for (idx s = 0; s < 3; s++)
        for (idx k = 0; k < channels; k++) {
            double total = 0.0;
            for (idx b = 0; b < back->sequences; b++) {
                const float *dz = row(z, s, k, b);
                _Pragma("omp simd reduction(+ : total)")
                for (idx i = 0; i < back->length; i++)
                    total += dz[i];
            }
            *row(back->z_sums, s, first + k, 0) = (float)total;
        }
}
