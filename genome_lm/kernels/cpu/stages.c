/* The stages of the CPU kernels between matrix products and FFTs, each in one pass over memory.
 *
 * stages.py says what they compute, and holds the plain form of each. A row is one channel of one sequence, of
 * consecutive positions; threads share the rows. Each is taken in tiles that stay in the first-level cache, with the
 * two positions before the tile, which the short convolution reaches back to: zeros where the sequence begins.
 */
#include <float.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define TAPS 3
#define BACK (TAPS - 1)
#define TILE 1024
#define COLUMNS 64
#define MOST_TAPS 16
#define SPAN 64
#define LARGEST 127.0f
#define SIMD _Pragma("omp simd")

typedef ptrdiff_t idx;

/* A view, of which the last dimension is dense, and `length` long; `stream` is 0 where there is one stream only. */
typedef struct {
    float *data;
    idx stream, channel, sequence, length;
} View;

typedef struct {
    idx channels, sequences, length;
} Shape;

static inline float *row(View v, idx stream, idx channel, idx sequence)
{
    return v.data + stream * v.stream + channel * v.channel + sequence * v.sequence;
}

static inline idx least(idx a, idx b) { return a < b ? a : b; }

/* e^x to 2 ulp, of an argument within float's range of results (Cody and Waite's reduction, the polynomial of
 * Cephes' expf on [-ln 2 / 2, ln 2 / 2]); written so that compilers make vectors of it. */
static inline float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    const float n = __builtin_rintf(x * 1.44269504088896341f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* gelu(x) = x s(x) in the tanh form: since 1 + tanh(y) = 2 sigmoid(2 y), s is a sigmoid. */
#define GELU_A 1.5957691216057308f /* 2 sqrt(2 / pi) */
#define GELU_B 0.044715f

static inline float gelu_slope(float x, float square)
{
    return 1.0f / (1.0f + exponential(-GELU_A * x * (1.0f + GELU_B * square)));
}

void gelu(View hidden, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx i = 0; i < shape.channels; i++) {
        float *h = row(hidden, 0, i, 0);
        SIMD
        for (idx j = 0; j < shape.length; j++)
            h[j] *= gelu_slope(h[j], h[j] * h[j]);
    }
}

/* A row as integers of 8 bits times the scale that is returned, by its largest value; NaN where not all are finite. */
static inline float quantised_row(const float *x, int8_t *values, idx n)
{
    float most = 0.0f, nothing = 0.0f;
    _Pragma("omp simd reduction(max : most) reduction(+ : nothing)")
    for (idx j = 0; j < n; j++) {
        const float size = __builtin_fabsf(x[j]);
        most = size > most ? size : most;
        nothing += x[j] * 0.0f;
    }
    const float scale = (most > FLT_MIN * LARGEST ? most / LARGEST : FLT_MIN) + nothing, inverse = 1.0f / scale;
    SIMD
    for (idx j = 0; j < n; j++)
        values[j] = (int8_t)(int32_t)__builtin_rintf(x[j] * inverse);
    return scale;
}

static inline int8_t *integers(View v, idx channel) { return (int8_t *)v.data + channel * v.channel; }

void quantise(View x, View values, View scales, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx i = 0; i < shape.channels; i++)
        scales.data[i] = quantised_row(row(x, 0, i, 0), integers(values, i), shape.length);
}

void gelu_quantise(View hidden, View scales, View bias, View values, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx i = 0; i < shape.channels; i++) {
        float *h = row(hidden, 0, i, 0);
        const float scale = scales.data[i], *b = bias.data;
        SIMD
        for (idx j = 0; j < shape.length; j++) {
            const float x = h[j] * scale + b[j];
            h[j] = x * gelu_slope(x, x * x);
        }
        scales.data[i] = quantised_row(h, integers(values, i), shape.length);
    }
}

void add_scaled(View product, View scales, View bias, View residual, View out, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx i = 0; i < shape.channels; i++) {
        const float *p = row(product, 0, i, 0), *r = row(residual, 0, i, 0), *b = bias.data, scale = scales.data[i];
        float *target = row(out, 0, i, 0);
        SIMD
        for (idx j = 0; j < shape.length; j++)
            target[j] = r[j] + (p[j] * scale + b[j]);
    }
}

/* `out` may be the memory of `product`, whose values are integers of 32 bits. */
void dequantise(View product, View scales, View column_scales, View out, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx i = 0; i < shape.channels; i++) {
        const float *p = row(product, 0, i, 0), *columns = column_scales.data, scale = scales.data[i];
        float *target = row(out, 0, i, 0);
        SIMD
        for (idx j = 0; j < shape.length; j++) {
            int32_t value;
            memcpy(&value, p + j, sizeof value);
            target[j] = (float)value * (scale * columns[j]);
        }
    }
}

/* Threads have columns each, so that a sum is added up in the order of the rows whatever their number. */
void gelu_backward(View hidden, View grad, View column_sums, Shape shape)
{
    float *sums = column_sums.data;
    const idx span = omp_get_max_threads() > 1 ? COLUMNS : shape.length;
    #pragma omp parallel for schedule(static)
    for (idx start = 0; start < shape.length; start += span) {
        const idx stop = least(start + span, shape.length);
        for (idx i = 0; i < shape.channels; i++) {
            float *h = row(hidden, 0, i, 0), *g = row(grad, 0, i, 0);
            SIMD
            for (idx j = start; j < stop; j++) {
                const float square = h[j] * h[j], s = gelu_slope(h[j], square), active = h[j] * s;
                h[j] = active;
                g[j] *= s + active * (1.0f - s) * GELU_A * (1.0f + 3.0f * GELU_B * square);
                sums[j] += g[j];
            }
        }
    }
}

/* Numbers of bfloat16, which are the upper halves of float's bits. */
static inline uint16_t *halves(View v, idx channel) { return (uint16_t *)v.data + channel * v.channel; }

static inline float widened(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To the nearest, of two as near to the even one; what is not a number stays so. */
static inline uint16_t narrowed(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t half = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : half);
}

static inline void narrow_row(const float *source, uint16_t *target, idx n)
{
    idx j = 0;
#ifdef __AVX512BF16__
    for (; j + 16 <= n; j += 16) {
        const __m256bh values = _mm512_cvtneps_pbh(_mm512_loadu_ps(source + j));
        memcpy(target + j, &values, sizeof values);
    }
#endif
    for (; j < n; j++)
        target[j] = narrowed(source[j]);
}

void narrow_bfloat16(View x, View out, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx i = 0; i < shape.channels; i++)
        narrow_row(row(x, 0, i, 0), halves(out, i), shape.length);
}

/* gelu_slope to 3e-4 of its value, for what is rounded to bfloat16: without a division, which takes as long as the
 * rest of it. 2^t is Taylor's polynomial of its fraction; 1 / (1 + e) begins with a guess by the bits of a float
 * (off by an eighth at most) and takes two steps of Newton's. */
static inline float rough_gelu_slope(float x, float square)
{
    float t = x * (1.0f + GELU_B * square) * (-GELU_A * 1.44269504f);
    t = t < -120.0f ? -120.0f : t > 120.0f ? 120.0f : t;
    const float n = __builtin_rintf(t), f = t - n;
    float e = 1.0f + f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * 0.00961813f)));
    int32_t bits;
    memcpy(&bits, &e, sizeof bits);
    bits += (int32_t)n << 23;
    memcpy(&e, &bits, sizeof e);
    e += 1.0f;
    memcpy(&bits, &e, sizeof bits);
    bits = 0x7ef311c7 - bits;
    float inverse;
    memcpy(&inverse, &bits, sizeof inverse);
    inverse *= 2.0f - e * inverse;
    inverse *= 2.0f - e * inverse;
    return inverse + x * 0.0f;
}

void gelu_bfloat16(View hidden, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx i = 0; i < shape.channels; i++) {
        uint16_t *h = halves(hidden, i);
        SIMD
        for (idx j = 0; j < shape.length; j++) {
            const float x = widened(h[j]);
            h[j] = narrowed(x * rough_gelu_slope(x, x * x));
        }
    }
}

void gelu_backward_bfloat16(View hidden, View grad, View column_sums, Shape shape)
{
    float *sums = column_sums.data;
    const idx span = omp_get_max_threads() > 1 ? COLUMNS : shape.length;
    #pragma omp parallel for schedule(static)
    for (idx start = 0; start < shape.length; start += span) {
        const idx stop = least(start + span, shape.length);
        for (idx i = 0; i < shape.channels; i++) {
            uint16_t *h = halves(hidden, i), *g = halves(grad, i);
            SIMD
            for (idx j = start; j < stop; j++) {
                const float x = widened(h[j]), square = x * x, s = rough_gelu_slope(x, square), active = x * s;
                const float slope = s + active * (1.0f - s) * GELU_A * (1.0f + 3.0f * GELU_B * square);
                const float through = widened(g[j]) * slope;
                h[j] = narrowed(active);
                g[j] = narrowed(through);
                sums[j] += through;
            }
        }
    }
}

void windowed(View h, View rates, View times, float shift, View out, Shape shape)
{
    const float *t = times.data;
    #pragma omp parallel for schedule(static)
    for (idx c = 0; c < shape.channels; c++) {
        const float *source = row(h, 0, c, 0), rate = rates.data[c];
        float *target = row(out, 0, c, 0);
        SIMD
        for (idx i = 0; i < shape.length; i++)
            target[i] = source[i] * (exponential(rate * t[i]) + shift);
    }
}

/* out[i] of the short convolution, where z[i + BACK] stands at the same position. */
static inline void short_conv(const float *z, const float *taps, float bias, float *out, idx n)
{
    const float t0 = taps[0], t1 = taps[1], t2 = taps[2];
    SIMD
    for (idx i = 0; i < n; i++)
        out[i] = bias + t0 * z[i] + t1 * z[i + 1] + t2 * z[i + 2];
}

/* n positions of a row from `start` on, behind the BACK positions before them. */
static inline void load(const float *z, idx start, idx n, float *tile)
{
    for (idx i = -BACK; i < 0; i++)
        tile[i + BACK] = start + i < 0 ? 0.0f : z[start + i];
    memcpy(tile + BACK, z + start, n * sizeof(float));
}

void gates_in(View z, View bias, View taps, View tap_bias, View carry, View x0, View u, View kept, Shape shape)
{
    #pragma omp parallel for collapse(2) schedule(static)
    for (idx c = 0; c < shape.channels; c++)
        for (idx b = 0; b < shape.sequences; b++) {
            float tile[3][BACK + TILE], out[3][TILE];
            for (int s = 0; s < 3; s++)
                for (idx i = 0; i < BACK; i++)
                    tile[s][i] = carry.data ? row(carry, s, c, b)[i] : 0.0f;
            for (idx start = 0; start < shape.length; start += TILE) {
                const idx n = least(TILE, shape.length - start);
                for (int s = 0; s < 3; s++) {
                    const float *source = row(z, s, c, b) + start, of_channel = *row(bias, s, c, 0);
                    float *here = tile[s] + BACK;
                    SIMD
                    for (idx i = 0; i < n; i++)
                        here[i] = source[i] + of_channel;
                    if (kept.data)
                        memcpy(row(kept, s, c, b) + start, here, n * sizeof(float));
                    short_conv(tile[s], row(taps, s, c, 0), *row(tap_bias, s, c, 0), out[s], n);
                    memmove(tile[s], tile[s] + n, BACK * sizeof(float));
                }
                float *gated = row(u, 0, c, b) + start;
                memcpy(row(x0, 0, c, b) + start, out[0], n * sizeof(float));
                SIMD
                for (idx i = 0; i < n; i++)
                    gated[i] = out[1][i] * out[2][i];
            }
            if (carry.data)
                for (int s = 0; s < 3; s++)
                    memcpy(row(carry, s, c, b), tile[s], BACK * sizeof(float));
        }
}

void gate_out(View x0, View c, View u, View skip, View y, Shape shape)
{
    #pragma omp parallel for collapse(2) schedule(static)
    for (idx k = 0; k < shape.channels; k++)
        for (idx b = 0; b < shape.sequences; b++) {
            const float *gate = row(x0, 0, k, b), *conv = row(c, 0, k, b), *input = row(u, 0, k, b);
            const float of_channel = *row(skip, 0, k, 0);
            float *out = row(y, 0, k, b);
            SIMD
            for (idx i = 0; i < shape.length; i++)
                out[i] = gate[i] * (conv[i] + of_channel * input[i]);
        }
}

void conv_inputs(View z, View dy, View taps, View tap_bias, View u, View dc, Shape shape)
{
    #pragma omp parallel for collapse(2) schedule(static)
    for (idx c = 0; c < shape.channels; c++)
        for (idx b = 0; b < shape.sequences; b++)
            for (idx start = 0; start < shape.length; start += TILE) {
                const idx n = least(TILE, shape.length - start);
                float tile[BACK + TILE], out[3][TILE];
                for (int s = 0; s < 3; s++) {
                    load(row(z, s, c, b), start, n, tile);
                    short_conv(tile, row(taps, s, c, 0), *row(tap_bias, s, c, 0), out[s], n);
                }
                const float *grad = row(dy, 0, c, b) + start;
                float *input = row(u, 0, c, b) + start, *grad_conv = row(dc, 0, c, b) + start;
                SIMD
                for (idx i = 0; i < n; i++) {
                    input[i] = out[1][i] * out[2][i];
                    grad_conv[i] = grad[i] * out[0][i];
                }
            }
}

void gate_backward(
    View z, View y, View c, View u, View skip, View taps, View tap_bias, View dx0, View skip_sums, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx k = 0; k < shape.channels; k++) {
        const float of_channel = *row(skip, 0, k, 0);
        double total = 0.0;
        for (idx b = 0; b < shape.sequences; b++)
            for (idx start = 0; start < shape.length; start += TILE) {
                const idx n = least(TILE, shape.length - start);
                float tile[BACK + TILE], gate[TILE], sum = 0.0f;
                load(row(z, 0, k, b), start, n, tile);
                short_conv(tile, row(taps, 0, k, 0), *row(tap_bias, 0, k, 0), gate, n);
                const float *conv = row(c, 0, k, b) + start, *input = row(u, 0, k, b) + start;
                float *grad = row(y, 0, k, b) + start, *grad_gate = row(dx0, 0, k, b) + start;
                #pragma omp simd reduction(+ : sum)
                for (idx i = 0; i < n; i++) {
                    const float whole = conv[i] + of_channel * input[i], dy = grad[i];
                    sum += dy * gate[i] * input[i];
                    grad_gate[i] = dy * whole;
                    grad[i] = gate[i] * whole;
                }
                total += sum;
            }
        *row(skip_sums, 0, k, 0) = (float)total;
    }
}

/* Gradients of the streams at n positions from `start` on and BACK after them, zeros behind the end of the row. */
static inline void stream_gradients(
    const float *dx0, const float *du, const float *dc, float skip, float tile[3][TILE + 2 * BACK], const float *taps[3],
    const float biases[3], float out[3][TILE + BACK], idx n, idx there)
{
    float x1[TILE + BACK], v[TILE + BACK];
    short_conv(tile[1], taps[1], biases[1], x1, there);
    short_conv(tile[2], taps[2], biases[2], v, there);
    SIMD
    for (idx i = 0; i < there; i++) {
        const float grad = du[i] + skip * dc[i];
        out[0][i] = dx0[i];
        out[1][i] = grad * v[i];
        out[2][i] = grad * x1[i];
    }
    for (int s = 0; s < 3; s++)
        for (idx i = there; i < n + BACK; i++)
            out[s][i] = 0.0f;
}

void streams_backward(
    View z, View dx0, View du, View dc, View skip, View taps, View tap_bias, View tap_sums, View bias_sums, Shape shape)
{
    #pragma omp parallel for schedule(static)
    for (idx c = 0; c < shape.channels; c++) {
        double sums[3][TAPS + 1] = {{0.0}};
        const float *of_stream[3] = {row(taps, 0, c, 0), row(taps, 1, c, 0), row(taps, 2, c, 0)};
        const float biases[3] = {*row(tap_bias, 0, c, 0), *row(tap_bias, 1, c, 0), *row(tap_bias, 2, c, 0)};
        for (idx b = 0; b < shape.sequences; b++) {
            float tile[3][TILE + 2 * BACK] = {{0.0f}}, grads[3][TILE + BACK];
            for (idx start = 0; start < shape.length; start += TILE) {
                const idx n = least(TILE, shape.length - start), there = least(n + BACK, shape.length - start);
                /* What is before the tile has been written over, and was kept when it was there. */
                for (int s = 0; s < 3; s++)
                    memcpy(tile[s] + BACK, row(z, s, c, b) + start, there * sizeof(float));
                stream_gradients(
                    row(dx0, 0, c, b) + start, row(du, 0, c, b) + start, row(dc, 0, c, b) + start,
                    *row(skip, 0, c, 0), tile, of_stream, biases, grads, n, there);
                for (int s = 0; s < 3; s++) {
                    const float *g = grads[s], *t = tile[s];
                    const float t0 = of_stream[s][0], t1 = of_stream[s][1], t2 = of_stream[s][2];
                    float *dz = row(z, s, c, b) + start, s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, total = 0.0f;
                    #pragma omp simd reduction(+ : s0, s1, s2, total)
                    for (idx i = 0; i < n; i++) {
                        dz[i] = t2 * g[i] + t1 * g[i + 1] + t0 * g[i + 2];
                        s0 += g[i] * t[i];
                        s1 += g[i] * t[i + 1];
                        s2 += g[i] * t[i + 2];
                        total += g[i];
                    }
                    sums[s][0] += s0, sums[s][1] += s1, sums[s][2] += s2, sums[s][TAPS] += total;
                    memmove(tile[s], tile[s] + n, BACK * sizeof(float));
                }
            }
        }
        for (int s = 0; s < 3; s++) {
            for (int k = 0; k < TAPS; k++)
                row(tap_sums, s, c, 0)[k] = (float)sums[s][k];
            *row(bias_sums, s, c, 0) = (float)sums[s][TAPS];
        }
    }
}

/* out[i] = sum of taps[k] x[i + k], for n positions in spans that stay in registers: up to SPAN − 1 more are written,
 * from x that is defined up to there. */
static inline void sums_of_taps(const float *taps, idx count, const float *x, float *out, idx n)
{
    for (idx start = 0; start < n; start += SPAN) {
        float sums[SPAN] = {0.0f};
        for (idx k = 0; k < count; k++) {
            const float *here = x + start + k, tap = taps[k];
            SIMD
            for (int i = 0; i < SPAN; i++)
                sums[i] += tap * here[i];
        }
        memcpy(out + start, sums, sizeof sums);
    }
}

void filtered(View u, View kernel, View c, Shape shape)
{
    const idx count = kernel.length, back = count - 1;
    #pragma omp parallel for collapse(2) schedule(static)
    for (idx k = 0; k < shape.channels; k++)
        for (idx b = 0; b < shape.sequences; b++) {
            float tile[MOST_TAPS + TILE + SPAN] = {0.0f}, out[TILE + SPAN];
            const float *source = row(u, 0, k, b), *taps = row(kernel, 0, k, 0);
            float *target = row(c, 0, k, b);
            for (idx start = 0; start < shape.length; start += TILE) {
                const idx n = least(TILE, shape.length - start);
                memcpy(tile + back, source + start, n * sizeof(float));
                sums_of_taps(taps, count, tile, out, n);
                memcpy(target + start, out, n * sizeof(float));
                memmove(tile, tile + n, back * sizeof(float));
            }
        }
}

void filtered_backward(View u, View kernel, View dc, View du, View kernel_sums, Shape shape)
{
    const idx count = kernel.length, back = count - 1;
    #pragma omp parallel for schedule(static)
    for (idx k = 0; k < shape.channels; k++) {
        double totals[MOST_TAPS] = {0.0};
        float reversed[MOST_TAPS];
        for (idx i = 0; i < count; i++)
            reversed[i] = row(kernel, 0, k, 0)[back - i];
        for (idx b = 0; b < shape.sequences; b++) {
            float tile[MOST_TAPS + TILE] = {0.0f}, grads[MOST_TAPS + TILE + SPAN], out[TILE + SPAN];
            const float *input = row(u, 0, k, b), *grad = row(dc, 0, k, b);
            for (idx start = 0; start < shape.length; start += TILE) {
                const idx n = least(TILE, shape.length - start), there = least(n + back, shape.length - start);
                memcpy(tile + back, input + start, n * sizeof(float));
                memcpy(grads, grad + start, there * sizeof(float));
                memset(grads + there, 0, (MOST_TAPS + TILE + SPAN - there) * sizeof(float));
                for (idx i = 0; i < count; i++) {
                    float sum = 0.0f;
                    #pragma omp simd reduction(+ : sum)
                    for (idx t = 0; t < n; t++)
                        sum += grads[t] * tile[t + i];
                    totals[i] += sum;
                }
                sums_of_taps(reversed, count, grads, out, n);
                memcpy(row(du, 0, k, b) + start, out, n * sizeof(float));
                memmove(tile, tile + n, back * sizeof(float));
            }
        }
        for (idx i = 0; i < count; i++)
            row(kernel_sums, 0, k, 0)[i] = (float)totals[i];
    }
}

#include "pool.h"
#include "work.h"
#include "fft.h"
#include "sub_blocks.h"
#include "amx.h"
#include "mlp_amx.h"
#include "head.h"
#include "mixer.h"
#include "attention.h"
#include "explicit.h"
#include "blocks.h"
#include "long.h"
#include "flash.h"
