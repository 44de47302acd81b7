/* Causal attention of bfloat16 with sums in float, forward and backward, by tiles of AMX (amx.h). Part of stages.c; flash.py
 * says what the functions compute.
 *
 * A call takes one sequence, (heads, positions, channels), on the thread that makes it. What is read as the right
 * operand of a product is packed into panels of 16 columns, in which a row of 16 words has two neighbours along the
 * sum each. Positions are padded with zeros to a multiple of SIDE, channels to one of STEP.
 */
#define SIDE 64    /* queries of a block forward, keys of one backward */
#define ACROSS 256 /* keys of a block forward */
#define ALONG 128  /* queries of a block backward */
#define STEP 32    /* bfloat16 values of a row of a tile */
#define PANEL 16

/* Floats of the room that a call needs, for so many keys. */
idx flash_room(idx positions, idx channels)
{
    const idx n = padded(positions, SIDE), width = padded(channels, STEP);
    return 2 * n * width + (n + STEP) * (width + width / 2) + 2 * n + 2 * SIDE * (ACROSS + STEP) + 4 * SIDE * width
        + ALONG * SIDE;
}

#ifdef HAS_TILES
/* c = a b, or added to c: m rows, n columns and k along the sum are multiples of 32. `panel` is the words of one. */
static void tile_product(const uint16_t *a, idx a_step, const uint32_t *b, idx panel, idx m, idx n, idx k, float *c,
    idx c_step, int add)
{
    for (idx i = 0; i < m; i += 32)
        for (idx j = 0; j < n; j += 32) {
            float *upper = c + i * c_step + j, *lower = upper + 16 * c_step;
            const uint32_t *left = b + j / PANEL * panel, *right = left + panel;
            if (add) {
                _tile_loadd(0, upper, c_step * 4);
                _tile_loadd(1, upper + 16, c_step * 4);
                _tile_loadd(2, lower, c_step * 4);
                _tile_loadd(3, lower + 16, c_step * 4);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (idx s = 0; s < k; s += STEP) {
                _tile_loadd(4, a + i * a_step + s, a_step * 2);
                _tile_loadd(5, a + (i + 16) * a_step + s, a_step * 2);
                _tile_loadd(6, left + s / 2 * PANEL, PANEL * 4);
                _tile_loadd(7, right + s / 2 * PANEL, PANEL * 4);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, upper, c_step * 4);
            _tile_stored(1, upper + 16, c_step * 4);
            _tile_stored(2, lower, c_step * 4);
            _tile_stored(3, lower + 16, c_step * 4);
        }
}

/* 2^t to 4e-5 of its value, a hundredth of what rounding to bfloat16 changes: Taylor's polynomial of its fraction. */
static inline __m512 rough_power(__m512 t)
{
    const __m512 f = _mm512_reduce_ps(t, 0);
    __m512 e = _mm512_set1_ps(0.00961813f);
    e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(0.05550411f));
    e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(0.24022651f));
    e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(0.69314718f));
    e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(e, _mm512_sub_ps(t, f));
}

/* A head's rows, with a distance. */
typedef struct {
    uint16_t *data;
    idx step;
} Rows;

static inline Rows rows_of_head(View v, idx head)
{
    const Rows rows = {(uint16_t *)v.data + head * v.channel, v.sequence};
    return rows;
}

static inline uint32_t pair(uint16_t first, uint16_t second) { return (uint32_t)first | (uint32_t)second << 16; }

/* Rows behind one another, padded. */
static void copy_padded(Rows x, idx n, idx channels, idx all, idx width, uint16_t *out)
{
    for (idx i = 0; i < all; i++) {
        const idx there = i < n ? channels : 0;
        if (there)
            memcpy(out + i * width, x.data + i * x.step, there * sizeof(uint16_t));
        memset(out + i * width + there, 0, (width - there) * sizeof(uint16_t));
    }
}

/* The transpose as a right operand: columns are positions, and channels go along the sum. */
static void pack_positions(Rows x, idx n, idx channels, idx all, idx width, uint32_t *out)
{
    for (idx i = 0; i < all; i++) {
        uint32_t *column = out + i / PANEL * (width / 2 * PANEL) + i % PANEL;
        for (idx r = 0; r < width / 2; r++) {
            uint32_t both = 0;
            if (i < n && 2 * r < channels)
                memcpy(&both, x.data + i * x.step + 2 * r, sizeof both);
            column[r * PANEL] = both;
        }
    }
}

/* A right operand whose columns are channels; positions go along the sum. */
static void pack_channels(Rows x, idx n, idx channels, idx all, idx width, uint32_t *out)
{
    memset(out, 0, all / 2 * width * sizeof(uint32_t));
    for (idx i = 0; i < n; i += 2) {
        const uint16_t *first = x.data + i * x.step, *second = i + 1 < n ? first + x.step : 0;
        for (idx c = 0; c < channels; c += PANEL) {
            uint32_t *words = out + c / PANEL * (all / 2 * PANEL) + i / 2 * PANEL;
            for (idx l = 0; l < least(PANEL, channels - c); l++)
                words[l] = pair(first[c + l], second ? second[c + l] : 0);
        }
    }
}

/* Scores of a query, of which the first `seen` count, as their shares of the sum so far, rounded; gives what the sums
 * so far are to be multiplied by. Logarithms are of base 2. */
static inline float shares(
    const float *scores, idx seen, idx width, float scale, float *most, float *total, uint16_t *rounded)
{
    const __m512 lowest = _mm512_set1_ps(-FLT_MAX), by = _mm512_set1_ps(scale);
    __m512 even = lowest, odd = lowest, sum = _mm512_setzero_ps(), more = sum;
    for (idx j = 0; j < seen; j += 32) {
        even = _mm512_max_ps(even, _mm512_mask_loadu_ps(lowest, first_columns(seen - j), scores + j));
        odd = _mm512_max_ps(odd, _mm512_mask_loadu_ps(lowest, first_columns(seen - (j + 16)), scores + j + 16));
    }
    const float here = _mm512_reduce_max_ps(_mm512_max_ps(even, odd)) * scale, largest = here > *most ? here : *most;
    const __m512 off = _mm512_set1_ps(largest);
    for (idx j = 0; j < width; j += 32) {
        const __m512 first = _mm512_fmsub_ps(_mm512_loadu_ps(scores + j), by, off);
        const __m512 second = _mm512_fmsub_ps(_mm512_loadu_ps(scores + j + 16), by, off);
        const __m512 a = _mm512_maskz_mov_ps(first_columns(seen - j), rough_power(first));
        const __m512 b = _mm512_maskz_mov_ps(first_columns(seen - (j + 16)), rough_power(second));
        sum = _mm512_add_ps(sum, a);
        more = _mm512_add_ps(more, b);
        _mm512_storeu_si512(rounded + j, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
    const float before = _mm512_cvtss_f32(rough_power(_mm512_set1_ps(*most - largest)));
    *total = *total * before + _mm512_reduce_add_ps(_mm512_add_ps(sum, more));
    *most = largest;
    return before;
}

/* All sequences: a view's streams are sequences, its channels heads, and its sequences positions. The last four are of
 * the way back, where `most` has the logarithms of the denominators. */
typedef struct {
    View q, k, v, y, most, total;
    View grad, dq, dk, dv;
    idx heads, length, channels;
    idx queries; /* of a piece of the forward pass: a sequence has as many pieces as it takes */
} Flash;

/* A sequence from position `start` on: bfloat16 channels, or sums of a head, of which there is one for each position. */
static inline View halves_from(View v, idx sequence, idx start)
{
    v.data = (float *)((uint16_t *)v.data + sequence * v.stream + start * v.sequence);
    return v;
}

static inline View floats_from(View v, idx sequence, idx start)
{
    v.data += sequence * v.stream + start;
    return v;
}

/* `before` is the number of keys before the first query. */
static void flash_queries(
    View q, View k, View v, View y, View most, View total, idx before, float *room, Shape shape)
{
    const idx channels = shape.length, width = padded(channels, STEP), queries = shape.sequences;
    const idx keys = before + queries, all = padded(keys, SIDE), step = ACROSS + STEP;
    const float scale = 1.44269504f / __builtin_sqrtf((float)channels);
    uint32_t *of_keys = (uint32_t *)room, *of_values = of_keys + all / 2 * width;
    float *scores = (float *)(of_values + all / 2 * width), *sums = scores + SIDE * step;
    uint16_t *rounded = (uint16_t *)(sums + SIDE * width), *block = rounded + SIDE * step;
    const TileShapes tiles = begin_tiles();
    for (idx h = 0; h < shape.channels; h++) {
        pack_positions(rows_of_head(k, h), keys, channels, all, width, of_keys);
        pack_channels(rows_of_head(v, h), keys, channels, all, width, of_values);
        for (idx first = 0; first < queries; first += SIDE) {
            const idx n = least(SIDE, queries - first), end = before + first + n;
            Rows here = rows_of_head(q, h), out = rows_of_head(y, h);
            here.data += first * here.step;
            copy_padded(here, n, channels, SIDE, width, block);
            float *largest = row(most, 0, h, 0) + first, *whole = row(total, 0, h, 0) + first;
            for (idx i = 0; i < n; i++)
                largest[i] = -FLT_MAX, whole[i] = 0.0f;
            for (idx key = 0; key < end; key += ACROSS) {
                const idx across = padded(least(ACROSS, end - key), STEP);
                tile_product(block, width, of_keys + key / PANEL * (width / 2 * PANEL), width / 2 * PANEL, SIDE, across,
                    width, scores, step, 0);
                for (idx i = 0; i < n; i++) {
                    const idx reach = before + first + i + 1 - key, seen = reach < 0 ? 0 : least(reach, across);
                    const float factor =
                        shares(scores + i * step, seen, across, scale, largest + i, whole + i, rounded + i * step);
                    for (idx c = 0; key && c < width; c++)
                        sums[i * width + c] *= factor;
                }
                tile_product(rounded, step, of_values + key / 2 * PANEL, all / 2 * PANEL, SIDE, width, across, sums,
                    width, key > 0);
            }
            for (idx i = 0; i < n; i++) {
                const float inverse = 1.0f / whole[i];
                for (idx c = 0; c < width; c++)
                    sums[i * width + c] *= inverse;
                narrow_row(sums + i * width, out.data + (first + i) * out.step, channels);
            }
        }
    }
    end_tiles(&tiles);
}

/* Pieces of the forward pass. */
void flash_forward(const Flash *flash, const void *none, idx first, idx pieces, float *room)
{
    const idx parts = parts_of(flash->length, flash->queries);
    (void)none;
    for (idx piece = first; piece < first + pieces; piece++) {
        const idx b = piece / parts, start = piece % parts * flash->queries;
        const Shape shape = {flash->heads, least(flash->queries, flash->length - start), flash->channels};
        flash_queries(halves_from(flash->q, b, start), halves_from(flash->k, b, 0), halves_from(flash->v, b, 0),
            halves_from(flash->y, b, start), floats_from(flash->most, b, start), floats_from(flash->total, b, start),
            start, room, shape);
    }
}

/* The transpose as a left operand: a row per channel. */
static void transpose_channels(Rows x, idx n, idx channels, idx all, idx width, uint16_t *out, idx step)
{
    memset(out, 0, width * step * sizeof(uint16_t));
    (void)all;
    for (idx i = 0; i < n; i++)
        for (idx c = 0; c < channels; c++)
            out[c * step + i] = x.data[i * x.step + c];
}

static inline float dot_halves(const uint16_t *a, const uint16_t *b, idx n)
{
    float sum = 0.0f;
    _Pragma("omp simd reduction(+ : sum)")
    for (idx c = 0; c < n; c++)
        sum += widened(a[c]) * widened(b[c]);
    return sum;
}

/* A key's scores and products of its value with the gradients, for queries from `first` on, as shares and as gradients
 * of scores, rounded. Queries before the key see it not. */
static inline void back_through_shares(const float *scores, const float *products, idx width, float scale,
    const float *logs, const float *along, idx unseen, uint16_t *shares_out, uint16_t *grads_out)
{
    const __m512 by = _mm512_set1_ps(scale);
    for (idx i = 0; i < width; i += 32) {
        __m512 share[2], grad[2];
        for (int half = 0; half < 2; half++) {
            const idx at = i + 16 * half;
            const __m512 t = _mm512_fmsub_ps(_mm512_loadu_ps(scores + at), by, _mm512_loadu_ps(logs + at));
            share[half] = _mm512_maskz_mov_ps((__mmask16)~first_columns(unseen - at), rough_power(t));
            const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(products + at), _mm512_loadu_ps(along + at));
            grad[half] = _mm512_mul_ps(share[half], off);
        }
        _mm512_storeu_si512(shares_out + i, (__m512i)_mm512_cvtne2ps_pbh(share[1], share[0]));
        _mm512_storeu_si512(grads_out + i, (__m512i)_mm512_cvtne2ps_pbh(grad[1], grad[0]));
    }
}

/* Rows of two neighbouring keys as words of a right operand, whose columns are queries. */
static inline void interleave(const uint16_t *first, const uint16_t *second, idx n, idx panel, uint32_t *out)
{
    for (idx i = 0; i < n; i += PANEL) {
        uint32_t *words = out + i / PANEL * panel;
        SIMD
        for (idx l = 0; l < PANEL; l++)
            words[l] = pair(first[i + l], second[i + l]);
    }
}

static void put_scaled(float *x, idx n, float scale, uint16_t *out)
{
    for (idx c = 0; c < n; c++)
        x[c] *= scale;
    narrow_row(x, out, n);
}

/* `logs` are those of the sums, of base 2, as `most` and `total` of flash_forward give them. */
static void flash_sequence_back(
    View q, View k, View v, View y, View grad, View logs, View dq, View dk, View dv, float *room, Shape shape)
{
    const idx channels = shape.length, width = padded(channels, STEP), n = shape.sequences, all = padded(n, SIDE);
    const idx words = all / 2 * width, step = ALONG + STEP, columns = all + STEP, of_position = width / 2 * PANEL;
    const idx of_channel = all / 2 * PANEL, of_block = SIDE / 2 * PANEL;
    const float root = 1.0f / __builtin_sqrtf((float)channels), scale = 1.44269504f * root;
    uint32_t *q_columns = (uint32_t *)room, *grad_columns = q_columns + words, *q_rows = grad_columns + words;
    uint32_t *grad_rows = q_rows + words, *block_grads = grad_rows + words;
    float *scores = (float *)(block_grads + ALONG / PANEL * of_block), *products = scores + SIDE * step;
    float *of_keys = products + SIDE * step, *of_values = of_keys + SIDE * width, *of_queries = of_values + SIDE * width;
    float *along = of_queries + width * columns, *log_sums = along + all;
    uint16_t *keys = (uint16_t *)(log_sums + all), *values = keys + SIDE * width, *shares = values + SIDE * width;
    uint16_t *grads = shares + SIDE * step, *channels_of_keys = grads + SIDE * step;
    const TileShapes tiles = begin_tiles();
    for (idx h = 0; h < shape.channels; h++) {
        const Rows of_q = rows_of_head(q, h), of_k = rows_of_head(k, h), of_v = rows_of_head(v, h);
        const Rows of_y = rows_of_head(y, h), of_grad = rows_of_head(grad, h);
        const Rows to_q = rows_of_head(dq, h), to_k = rows_of_head(dk, h), to_v = rows_of_head(dv, h);
        pack_positions(of_q, n, channels, all, width, q_columns);
        pack_positions(of_grad, n, channels, all, width, grad_columns);
        pack_channels(of_q, n, channels, all, width, q_rows);
        pack_channels(of_grad, n, channels, all, width, grad_rows);
        transpose_channels(of_k, n, channels, all, width, channels_of_keys, columns);
        memset(of_queries, 0, width * columns * sizeof(float));
        for (idx i = 0; i < all; i++) {
            along[i] = i < n ? dot_halves(of_grad.data + i * of_grad.step, of_y.data + i * of_y.step, channels) : 0.0f;
            log_sums[i] = i < n ? row(logs, 0, h, 0)[i] : 0.0f;
        }
        for (idx key = 0; key < n; key += SIDE) {
            const idx there = least(SIDE, n - key);
            const Rows here = {of_k.data + key * of_k.step, of_k.step}, inside = {of_v.data + key * of_v.step, of_v.step};
            copy_padded(here, there, channels, SIDE, width, keys);
            copy_padded(inside, there, channels, SIDE, width, values);
            for (idx first = key; first < all; first += ALONG) {
                const idx across = least(ALONG, all - first);
                tile_product(keys, width, q_columns + first / PANEL * of_position, of_position, SIDE, across, width,
                    scores, step, 0);
                tile_product(values, width, grad_columns + first / PANEL * of_position, of_position, SIDE, across, width,
                    products, step, 0);
                for (idx j = 0; j < SIDE; j++)
                    back_through_shares(scores + j * step, products + j * step, across, scale, log_sums + first,
                        along + first, key + j - first, shares + j * step, grads + j * step);
                for (idx j = 0; j < SIDE; j += 2)
                    interleave(grads + j * step, grads + (j + 1) * step, across, of_block, block_grads + j / 2 * PANEL);
                tile_product(shares, step, grad_rows + first / 2 * PANEL, of_channel, SIDE, width, across, of_values,
                    width, first > key);
                tile_product(grads, step, q_rows + first / 2 * PANEL, of_channel, SIDE, width, across, of_keys, width,
                    first > key);
                tile_product(channels_of_keys + key, columns, block_grads, of_block, width, across, SIDE,
                    of_queries + first, columns, 1);
            }
            for (idx j = 0; j < there; j++) {
                put_scaled(of_keys + j * width, channels, root, to_k.data + (key + j) * to_k.step);
                put_scaled(of_values + j * width, channels, 1.0f, to_v.data + (key + j) * to_v.step);
            }
        }
        for (idx i = 0; i < n; i++) {
            float out[channels];
            for (idx c = 0; c < channels; c++)
                out[c] = of_queries[c * columns + i];
            put_scaled(out, channels, root, to_q.data + i * to_q.step);
        }
    }
    end_tiles(&tiles);
}

/* Sequences on the way back. */
void flash_backward(const Flash *flash, const void *none, idx first, idx sequences, float *room)
{
    const Shape shape = {flash->heads, flash->length, flash->channels};
    (void)none;
    for (idx b = first; b < first + sequences; b++)
        flash_sequence_back(halves_from(flash->q, b, 0), halves_from(flash->k, b, 0), halves_from(flash->v, b, 0),
            halves_from(flash->y, b, 0), halves_from(flash->grad, b, 0), floats_from(flash->most, b, 0),
            halves_from(flash->dq, b, 0), halves_from(flash->dk, b, 0), halves_from(flash->dv, b, 0), room, shape);
}
#endif
