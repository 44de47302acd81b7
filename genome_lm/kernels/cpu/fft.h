/* Long Fourier transforms in two steps that stay in the caches: part of stages.c. steps.py has the plain form.
 *
 * A signal of real numbers is a matrix, row by row. Step one transforms its columns, 16 neighbouring ones at a time:
 * a vector holds one row of them, so that no value changes its place within a vector. Step two transforms the rows,
 * which the caller's library does. conv/spectra.py says what is computed, and what the factors are.
 *
 * Going back, real and imaginary parts are swapped on the way in and out: swap(F(swap(z))) is the inverse transform,
 * and swap(z) w = swap(z conj(w)). So all tables serve both ways.
 */
#define LANES 16
#define MOST_PASSES 8
#define INLINE static inline __attribute__((always_inline))

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef Lanes Unaligned __attribute__((aligned(4)));
typedef int32_t Places __attribute__((vector_size(4 * LANES)));

typedef struct {
    Lanes re, im;
} Complex;

typedef long (*Transform)(void *handle, void *values, ...);

/* `order` has the frequency of each place after the passes over a column. */
typedef struct {
    idx rows, columns, length, batch, passes;
    idx radices[MOST_PASSES];
    const float *twist;      /* (rows, 2): of the real values of a row */
    const float *twist_back; /* the same over rows * columns */
    const float *near;       /* (rows, 2, LANES): step factors of the first columns */
    const float *far;        /* (columns / LANES, rows, 2): what a group's factors are times those */
    const float *inner;      /* (.., radix - 1, 2): factors between passes, pass after pass */
    const idx *order;
    Transform forward, backward;
    void *handle;
} Steps;

INLINE Complex times(Complex a, Complex b) { return (Complex){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }

INLINE Complex times_scalar(Complex a, const float *w)
{
    return (Complex){a.re * w[0] - a.im * w[1], a.re * w[1] + a.im * w[0]};
}

INLINE Complex plus(Complex a, Complex b) { return (Complex){a.re + b.re, a.im + b.im}; }

INLINE Complex minus(Complex a, Complex b) { return (Complex){a.re - b.re, a.im - b.im}; }

INLINE Complex conjugate(Complex a) { return (Complex){a.re, -a.im}; }

INLINE Complex times_minus_i(Complex a) { return (Complex){a.im, -a.re}; }

/* In order; exp(-2 pi i j k / 4). */
INLINE void dft4(Complex *x)
{
    const Complex a = plus(x[0], x[2]), b = minus(x[0], x[2]), c = plus(x[1], x[3]);
    const Complex d = times_minus_i(minus(x[1], x[3]));
    x[0] = plus(a, c);
    x[1] = plus(b, d);
    x[2] = minus(a, c);
    x[3] = minus(b, d);
}

INLINE void dft8(Complex *x)
{
    const float half = 0.70710678118654752f;
    Complex even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
    dft4(even);
    dft4(odd);
    const Complex a = odd[1], b = odd[3];
    odd[1] = (Complex){(a.re + a.im) * half, (a.im - a.re) * half};
    odd[2] = times_minus_i(odd[2]);
    odd[3] = (Complex){(b.im - b.re) * half, (b.re + b.im) * -half};
    for (int i = 0; i < 4; i++) {
        x[i] = plus(even[i], odd[i]);
        x[i + 4] = minus(even[i], odd[i]);
    }
}

INLINE void dft(Complex *x, int radix) { radix == 8 ? dft8(x) : dft4(x); }

#ifdef __clang__
#define MIXED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIXED(a, b, ...) __builtin_shuffle(a, b, (Places){__VA_ARGS__})
#endif

/* Complex values as they are in memory. */
INLINE void store_pairs(float *to, Complex x)
{
    *(Unaligned *)to = MIXED(x.re, x.im, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *(Unaligned *)(to + LANES) = MIXED(x.re, x.im, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

INLINE Complex load_pairs(const float *from)
{
    const Lanes a = *(const Unaligned *)from, b = *(const Unaligned *)(from + LANES);
    return (Complex){MIXED(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
        MIXED(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};
}

/* What the next group of columns reads or writes; rows are too far apart for the processor to see it coming. */
#define SOON(place, is_written) __builtin_prefetch(place, is_written, 2)

/* Values of a row from a column on: zeros behind the signal's end. */
INLINE Lanes load_row(const Steps *steps, const float *x, idx row, idx column)
{
    const idx start = row * steps->columns + column, left = steps->length - start;
    if (left >= LANES)
        return *(const Unaligned *)(x + start);
    Lanes values = {0};
    if (left > 0)
        memcpy(&values, x + start, (size_t)left * sizeof(float));
    return values;
}

INLINE void store_row(const Steps *steps, float *x, idx row, idx column, Lanes values)
{
    const idx start = row * steps->columns + column, left = steps->length - start;
    if (left >= LANES)
        *(Unaligned *)(x + start) = values;
    else if (left > 0)
        memcpy(x + start, &values, (size_t)left * sizeof(float));
}

/* Values a step apart, transformed, and each but the first times a factor. */
INLINE void pass_in(Complex *column, idx span, idx rows, const float *inner, int radix)
{
    const idx step = span / radix;
    for (idx block = 0; block < rows; block += span)
        for (idx q = 0; q < step; q++) {
            Complex x[8], *here = column + block + q;
            for (int i = 0; i < radix; i++)
                x[i] = here[i * step];
            dft(x, radix);
            here[0] = x[0];
            for (int i = 1; i < radix; i++)
                here[i * step] = times_scalar(x[i], inner + 2 * (q * (radix - 1) + i - 1));
        }
}

/* The same backwards. */
INLINE void pass_out(Complex *column, idx span, idx rows, const float *inner, int radix)
{
    const idx step = span / radix;
    for (idx block = 0; block < rows; block += span)
        for (idx q = 0; q < step; q++) {
            Complex x[8], *here = column + block + q;
            x[0] = here[0];
            for (int i = 1; i < radix; i++)
                x[i] = times_scalar(here[i * step], inner + 2 * (q * (radix - 1) + i - 1));
            dft(x, radix);
            for (int i = 0; i < radix; i++)
                here[i * step] = x[i];
        }
}

INLINE void first_in(const Steps *s, const float *x, idx column, Complex *to, int radix)
{
    const idx step = s->rows / radix;
    for (idx q = 0; q < step; q++) {
        Complex v[8];
        for (int i = 0; i < radix; i++) {
            const idx row = q + i * step;
            const Lanes value = load_row(s, x, row, column);
            SOON(x + row * s->columns + column + LANES, 0);
            v[i] = (Complex){value * s->twist[2 * row], value * s->twist[2 * row + 1]};
        }
        dft(v, radix);
        to[q] = v[0];
        for (int i = 1; i < radix; i++)
            to[q + i * step] = times_scalar(v[i], s->inner + 2 * (q * (radix - 1) + i - 1));
    }
}

INLINE void last_out(const Steps *s, float *x, idx column, const Complex *from, int radix)
{
    const idx step = s->rows / radix;
    for (idx q = 0; q < step; q++) {
        Complex v[8];
        v[0] = from[q];
        for (int i = 1; i < radix; i++)
            v[i] = times_scalar(from[q + i * step], s->inner + 2 * (q * (radix - 1) + i - 1));
        dft(v, radix);
        for (int i = 0; i < radix; i++) {
            const idx row = q + i * step;
            const float *twist = s->twist_back + 2 * row;
            store_row(s, x, row, column, v[i].re * twist[1] + v[i].im * twist[0]);
            SOON(x + row * s->columns + column + LANES, 1);
        }
    }
}

INLINE Complex step_factor(const Steps *s, const float *far, idx frequency)
{
    const float *near = s->near + 2 * LANES * frequency;
    return times_scalar((Complex){*(const Unaligned *)near, *(const Unaligned *)(near + LANES)}, far + 2 * frequency);
}

INLINE void last_in(const Steps *s, const Complex *column, const float *far, float *to, int radix)
{
    for (idx block = 0; block < s->rows; block += radix) {
        Complex v[8];
        for (int i = 0; i < radix; i++)
            v[i] = column[block + i];
        dft(v, radix);
        for (int i = 0; i < radix; i++) {
            const idx frequency = s->order[block + i];
            float *here = to + 2 * s->columns * frequency;
            store_pairs(here, times(v[i], step_factor(s, far, frequency)));
            SOON(here + 2 * LANES, 1);
            SOON(here + 3 * LANES, 1);
        }
    }
}

INLINE void first_out(const Steps *s, Complex *column, const float *far, const float *from, int radix)
{
    for (idx block = 0; block < s->rows; block += radix) {
        Complex v[8];
        for (int i = 0; i < radix; i++) {
            const idx frequency = s->order[block + i];
            const float *here = from + 2 * s->columns * frequency;
            const Complex z = load_pairs(here);
            SOON(here + 2 * LANES, 0);
            SOON(here + 3 * LANES, 0);
            v[i] = times((Complex){z.im, z.re}, step_factor(s, far, frequency));
        }
        dft(v, radix);
        for (int i = 0; i < radix; i++)
            column[block + i] = v[i];
    }
}

#define BY_RADIX(radix, call, ...) ((radix) == 8 ? call(__VA_ARGS__, 8) : call(__VA_ARGS__, 4))

/* Step one: `to` is (rows, columns) complex. */
static void columns_in(const Steps *s, const float *x, float *to)
{
    Complex column[s->rows];
    const idx last = s->passes - 1;
    for (idx start = 0; start < s->columns; start += LANES) {
        const float *inner = s->inner, *far = s->far + 2 * s->rows * (start / LANES);
        BY_RADIX(s->radices[0], first_in, s, x, start, column);
        for (idx pass = 0, span = s->rows; pass < last; span /= s->radices[pass++]) {
            const idx radix = s->radices[pass];
            if (pass > 0)
                BY_RADIX(radix, pass_in, column, span, s->rows, inner);
            inner += 2 * (radix - 1) * (span / radix);
        }
        BY_RADIX(s->radices[last], last_in, s, column, far, to + 2 * start);
    }
}

/* Step one backwards. */
static void columns_out(const Steps *s, const float *from, float *x)
{
    Complex column[s->rows];
    const idx last = s->passes - 1;
    for (idx start = 0; start < s->columns; start += LANES) {
        const float *far = s->far + 2 * s->rows * (start / LANES), *inner = s->inner;
        idx span = s->rows;
        for (idx pass = 0; pass < last; pass++) {
            inner += 2 * (s->radices[pass] - 1) * (span / s->radices[pass]);
            span /= s->radices[pass];
        }
        BY_RADIX(s->radices[last], first_out, s, column, far, from + 2 * start);
        for (idx pass = last - 1; pass > 0; pass--) {
            const idx radix = s->radices[pass];
            inner -= 2 * (radix - 1) * (span);
            span *= radix;
            BY_RADIX(radix, pass_out, column, span, s->rows, inner);
        }
        BY_RADIX(s->radices[0], last_out, s, x, start, column);
    }
}

static void rows_of(Transform transform, const Steps *s, float *values)
{
    for (idx row = 0; row < s->rows; row += s->batch)
        transform(s->handle, values + 2 * s->columns * row);
}

/* The spectra of signals, (channels, sequences, rows * columns) complex. */
void spectra_in_steps(const Steps *s, View x, View out, Shape shape)
{
    for (idx c = 0; c < shape.channels; c++)
        for (idx b = 0; b < shape.sequences; b++) {
            float *here = row(out, 0, c, b);
            columns_in(s, row(x, 0, c, b), here);
            rows_of(s->forward, s, here);
        }
}

/* The signals of spectra, whose memory is written over. */
void signals_in_steps(const Steps *s, View spectra, View out, Shape shape)
{
    for (idx c = 0; c < shape.channels; c++)
        for (idx b = 0; b < shape.sequences; b++) {
            float *here = row(spectra, 0, c, b);
            rows_of(s->backward, s, here);
            columns_out(s, here, row(out, 0, c, b));
        }
}

/* The convolution of a row with a filter of which there is the spectrum. `room` holds a spectrum. */
static void convolve_row(const Steps *s, const float *u, const float *filter, float *out, float *room)
{
    const idx span = 2 * s->columns * s->batch;
    columns_in(s, u, room);
    for (idx at = 0; at < 2 * s->rows * s->columns; at += span) {
        float *here = room + at;
        s->forward(s->handle, here);
        for (idx i = 0; i < span; i += 2 * LANES)
            store_pairs(here + i, times(load_pairs(here + i), load_pairs(filter + at + i)));
        s->backward(s->handle, here);
    }
    columns_out(s, room, out);
}

/* Convolutions with filters, of which there are spectra: (channels, rows * columns). `room` holds a spectrum. */
void convolved_in_steps(const Steps *s, View u, View filters, View out, float *room, Shape shape)
{
    for (idx c = 0; c < shape.channels; c++)
        for (idx b = 0; b < shape.sequences; b++)
            convolve_row(s, row(u, 0, c, b), row(filters, 0, c, 0), row(out, 0, c, b), room);
}

/* Of the spectra h, u and d of a filter, a signal and the gradient of their convolution: h u over u, conj(h) d over d,
 * and conj(u) d is added to `dh`, or written there. */
static void products_back(const float *h, float *u, float *d, float *dh, idx span, int add)
{
    for (idx i = 0; i < span; i += 2 * LANES) {
        const Complex filter = load_pairs(h + i), signal = load_pairs(u + i), gradient = load_pairs(d + i);
        const Complex of_filter = times(conjugate(signal), gradient);
        store_pairs(dh + i, add ? plus(load_pairs(dh + i), of_filter) : of_filter);
        store_pairs(u + i, times(filter, signal));
        store_pairs(d + i, times(conjugate(filter), gradient));
    }
}

/* For filters h (channels, length), the convolutions c of u with them, and the gradients of u and h for those of c.
 * `room` holds three spectra, and of several sequences four. */
void convolved_back_in_steps(
    const Steps *s, View u, View dc, View h, View c, View du, View dh, float *room, Shape shape)
{
    const idx all = 2 * s->rows * s->columns, span = 2 * s->columns * s->batch;
    float *filter = room, *signal = filter + all, *gradient = signal + all;
    float *of_filter = shape.sequences > 1 ? gradient + all : filter;
    for (idx channel = 0; channel < shape.channels; channel++) {
        columns_in(s, row(h, 0, channel, 0), filter);
        for (idx b = 0; b < shape.sequences; b++) {
            columns_in(s, row(u, 0, channel, b), signal);
            columns_in(s, row(dc, 0, channel, b), gradient);
            for (idx at = 0; at < all; at += span) {
                if (b == 0)
                    s->forward(s->handle, filter + at);
                s->forward(s->handle, signal + at);
                s->forward(s->handle, gradient + at);
                products_back(filter + at, signal + at, gradient + at, of_filter + at, span, b > 0);
                s->backward(s->handle, signal + at);
                s->backward(s->handle, gradient + at);
                if (b == shape.sequences - 1)
                    s->backward(s->handle, of_filter + at);
            }
            columns_out(s, signal, row(c, 0, channel, b));
            columns_out(s, gradient, row(du, 0, channel, b));
        }
        columns_out(s, of_filter, row(dh, 0, channel, 0));
    }
}
