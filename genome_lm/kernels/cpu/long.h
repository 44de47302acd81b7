/* The Hyena sub-block between its projections with filters as long as its sequences: convolutions by FFTs in two steps,
 * channel by channel. Part of stages.c; long_filters.py has the plain form.
 */

typedef struct {
    const Steps *steps;
    View filters;              /* (channels, length), or their spectra */
    const float *rates, *times; /* of the windows exp(rate * time) + shift, on the way back */
    float shift;
    int are_spectra;
    idx sequences;
} Long;

/* Channels [first, first + count) of those of the views, with room for two spectra and a row. A filter may be where y
 * is written. */
void long_gated(const Long *given, const Gated *gated, idx first, idx count, float *room)
{
    const Steps *s = given->steps;
    const idx all = 2 * s->rows * s->columns;
    float *made = room, *signal = made + all, *c = signal + all;
    for (idx channel = first; channel < first + count; channel++) {
        const float *filter = row(given->filters, 0, channel, 0), skip = *row(gated->skip, 0, channel, 0);
        if (!given->are_spectra) {
            columns_in(s, filter, made);
            rows_of(s->forward, s, made);
            filter = made;
        }
        for (idx b = 0; b < given->sequences; b++) {
            const float *u = row(gated->u, 0, channel, b), *x0 = row(gated->x0, 0, channel, b);
            float *y = row(gated->y, 0, channel, b);
            convolve_row(s, u, filter, c, signal);
            SIMD
            for (idx i = 0; i < s->length; i++)
                y[i] = x0[i] * (c[i] + skip * u[i]);
        }
    }
}

/* As blocks_backward, with room for three spectra more, and of several sequences four. The gradient of what a filter
 * is without its window takes the filter's place. */
void long_backward(const Long *given, const ExplicitBack *back, idx first, idx count, float *room)
{
    const idx length = back->length;
    const Shape one = {1, back->sequences, length};
    const View u = in_room(back, room, 0, 1), dc = in_room(back, room, 1, 1);
    const View c = in_room(back, room, 3, 1), du = in_room(back, room, 4, 1);
    float *spectra = in_room(back, room, 5, 1).data;
    for (idx k = first; k < first + count; k++) {
        float *filter = row(given->filters, 0, k, 0);
        const View of_filter = {filter, 0, 0, 0, length};
        streams_inputs(back, k, k + 1, room);
        convolved_back_in_steps(given->steps, u, dc, of_filter, c, du, of_filter, spectra, one);
        const float rate = given->rates[k], shift = given->shift;
        SIMD
        for (idx i = 0; i < length; i++)
            filter[i] *= exponential(rate * given->times[i]) + shift;
        streams_outputs(back, k, k + 1, c, du, room);
    }
}
