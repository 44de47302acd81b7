/* Queries, keys and values of attention, from rows of projected positions, whose channels lie side by side. Part of
 * stages.c; streams.py says what the functions compute. They write (heads, sequences, positions, channels), in float or
 * in bfloat16.
 */
#define LANES 16
#define SPOTS 8

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef float LooseLanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

/* A row of an output: n floats, rounded where the output is `halved`. */
static inline void put_row(const float *x, View out, idx head, idx sequence, idx position, idx n, int halved)
{
    const idx place = head * out.stream + sequence * out.channel + position * out.sequence;
    if (halved)
        narrow_row(x, (uint16_t *)out.data + place, n);
    else
        memcpy(out.data + place, x, n * sizeof(float));
}

/* The filters of `width` channels at SPOTS positions: rows[k + p] is the input of tap k at position p. Taps of a lag
 * are 2 * width apart, and so are positions of `out`. */
static inline void filtered_rows(const float *const *rows, const float *taps, idx count, idx width, float *out)
{
    idx c = 0;
    for (; c + LANES <= width; c += LANES) {
        Lanes sums[SPOTS] = {{0.0f}};
        for (idx k = 0; k < count; k++) {
            const Lanes tap = *(const LooseLanes *)(taps + k * 2 * width + c);
            _Pragma("GCC unroll 8")
            for (int p = 0; p < SPOTS; p++)
                sums[p] += tap * *(const LooseLanes *)(rows[k + p] + c);
        }
        _Pragma("GCC unroll 8")
        for (int p = 0; p < SPOTS; p++)
            *(LooseLanes *)(out + p * 2 * width + c) = sums[p];
    }
    for (; c < width; c++)
        for (int p = 0; p < SPOTS; p++) {
            float sum = 0.0f;
            for (idx k = 0; k < count; k++)
                sum += taps[k * 2 * width + c] * rows[k + p][c];
            out[p * 2 * width + c] = sum;
        }
}

/* x over the root of its mean square, times a factor. */
static inline void scaled_row(float *x, idx n, float eps, float factor)
{
    float squares = 0.0f;
    _Pragma("omp simd reduction(+ : squares)")
    for (idx j = 0; j < n; j++)
        squares += x[j] * x[j];
    const float scale = factor / __builtin_sqrtf(squares / (float)n + eps);
    SIMD
    for (idx j = 0; j < n; j++)
        x[j] *= scale;
}

static inline void recall_rows(
    View z, View before, View lags, View factors, float eps, View q, View k, View v, Shape shape, int halved)
{
    const idx positions = shape.sequences, width = shape.length / 2, heads = factors.length, channels = width / heads;
    const idx count = lags.length / shape.length, back = count - 1;
    #pragma omp parallel for collapse(2) schedule(static)
    for (idx s = 0; s < shape.channels; s++)
        for (idx start = 0; start < positions; start += SPOTS) {
            const float *rows[back + SPOTS];
            float out[SPOTS * 2 * width];
            for (idx i = 0; i < back + SPOTS; i++) {
                const idx from = start + i - back, at = least(from, positions - 1);
                rows[i] = from < 0 ? row(before, 0, s, back + from) : row(z, 0, s, at);
            }
            for (int of_keys = 0; of_keys < 2; of_keys++)
                filtered_rows(rows, lags.data + of_keys * width, count, width, out + of_keys * width);
            for (idx p = 0; p < least(SPOTS, positions - start); p++)
                for (idx h = 0; h < heads; h++) {
                    float *query = out + p * 2 * width + h * channels, *key = query + width;
                    scaled_row(query, channels, eps, factors.data[h]);
                    scaled_row(key, channels, eps, 1.0f);
                    put_row(query, q, h, s, start + p, channels, halved);
                    put_row(key, k, h, s, start + p, channels, halved);
                    put_row(rows[back + p] + width + h * channels, v, h, s, start + p, channels, halved);
                }
        }
}

void recall_streams(
    View z, View before, View lags, View factors, float eps, View q, View k, View v, Shape shape)
{
    recall_rows(z, before, lags, factors, eps, q, k, v, shape, 0);
}

void recall_streams_bfloat16(
    View z, View before, View lags, View factors, float eps, View q, View k, View v, Shape shape)
{
    recall_rows(z, before, lags, factors, eps, q, k, v, shape, 1);
}

/* n values of a row, widened in `room` where they are bfloat16; `place` counts them from the view's first. */
static inline const float *values_at(View v, idx place, idx n, int halved, float *room)
{
    if (!halved)
        return v.data + place;
    const uint16_t *source = (uint16_t *)v.data + place;
    SIMD
    for (idx j = 0; j < n; j++)
        room[j] = widened(source[j]);
    return room;
}

/* Neighbouring channels turned by angles, of which there are cosines and then sines; back if `way` is -1. */
static inline void turned_row(const float *x, const float *turns, float way, float *out, idx n)
{
    const float *sines = turns + n / 2;
    SIMD
    for (idx j = 0; j < n / 2; j++) {
        const float even = x[2 * j], odd = x[2 * j + 1], cosine = turns[j], sine = way * sines[j];
        out[2 * j] = even * cosine - odd * sine;
        out[2 * j + 1] = even * sine + odd * cosine;
    }
}

static inline void rotary_rows(View z, View turns, View q, View k, View v, Shape shape, int from_halves, int to_halves)
{
    const idx channels = turns.length, width = shape.length / 3;
    #pragma omp parallel for collapse(2) schedule(static)
    for (idx s = 0; s < shape.channels; s++)
        for (idx i = 0; i < shape.sequences; i++) {
            float room[channels], out[channels];
            const idx place = s * z.channel + i * z.sequence;
            for (idx c = 0; c < width; c += channels) {
                const View results[3] = {q, k, v};
                for (int stream = 0; stream < 3; stream++) {
                    const float *x = values_at(z, place + stream * width + c, channels, from_halves, room);
                    if (stream < 2)
                        turned_row(x, row(turns, 0, i, 0), 1.0f, out, channels);
                    put_row(stream < 2 ? out : x, results[stream], c / channels, s, i, channels, to_halves);
                }
            }
        }
}

void rotary_streams(View z, View turns, View q, View k, View v, Shape shape)
{
    rotary_rows(z, turns, q, k, v, shape, 0, 0);
}

void rotary_streams_bfloat16(View z, View turns, View q, View k, View v, Shape shape)
{
    rotary_rows(z, turns, q, k, v, shape, 0, 1);
}

void rotary_halves_bfloat16(View z, View turns, View q, View k, View v, Shape shape)
{
    rotary_rows(z, turns, q, k, v, shape, 1, 1);
}

static inline void rotary_rows_back(View z, View turns, View q, View k, View v, Shape shape, int halved)
{
    const idx channels = turns.length, width = shape.length / 3;
    #pragma omp parallel for collapse(2) schedule(static)
    for (idx s = 0; s < shape.channels; s++)
        for (idx i = 0; i < shape.sequences; i++) {
            float room[channels], out[channels];
            const View grads[3] = {q, k, v};
            for (idx c = 0; c < width; c += channels)
                for (int stream = 0; stream < 3; stream++) {
                    const View of = grads[stream];
                    const idx place = c / channels * of.stream + s * of.channel + i * of.sequence;
                    const float *x = values_at(of, place, channels, halved, room);
                    if (stream < 2)
                        turned_row(x, row(turns, 0, i, 0), -1.0f, out, channels);
                    View target = z;
                    target.data = (float *)((char *)z.data + (stream * width + c) * (halved ? 2 : 4));
                    put_row(stream < 2 ? out : x, target, 0, s, i, channels, halved);
                }
        }
}

void rotary_backward(View z, View turns, View q, View k, View v, Shape shape)
{
    rotary_rows_back(z, turns, q, k, v, shape, 0);
}

void rotary_backward_bfloat16(View z, View turns, View q, View k, View v, Shape shape)
{
    rotary_rows_back(z, turns, q, k, v, shape, 1);
}
