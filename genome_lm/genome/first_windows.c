/* Windows of a store's chunks that nobody has read before: read, verified and decoded in one call.

The plain form is Chunks.first_window in chunks.py. Whatever is not as usual (a chunk that was touched before, a frame
of another form, damage) is left to it: the answer is then not 0, and what is written to `out` has no meaning. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif
#ifdef __ARM_FEATURE_CRC32
#include <arm_acle.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "numbers in a store are little-endian"
#endif

enum { CHECKSUM = 4, FRAME = 24, PLANES = 8, RUN = 16, ONES = 255 };

typedef struct {
    int64_t chunk, per_shard, count; /* bases of a chunk, chunks of a shard, chunks of the store */
    const uint32_t *checksums;       /* (count,) CRC-32C of each chunk */
    uint8_t *touched;                /* (count,) 1 of a chunk that was read */
    const uint64_t *const *indexes;  /* of each shard (per_shard, 2): offset and size of each chunk; NULL: not read */
    const int *files;                /* of each shard, opened where its index was read */
    const uint8_t *table;            /* (256,) what each code becomes */
} Chunks;

static uint32_t number(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static uint32_t crc32c(const uint8_t *data, size_t size)
{
    uint32_t crc = 0xffffffff;
#if defined(__SSE4_2__) && defined(__x86_64__)
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t eight;
        memcpy(&eight, data, 8);
        crc = (uint32_t)_mm_crc32_u64(crc, eight);
    }
    for (; size; size--)
        crc = _mm_crc32_u8(crc, *data++);
#elif defined(__ARM_FEATURE_CRC32)
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t eight;
        memcpy(&eight, data, 8);
        crc = __crc32cd(crc, eight);
    }
    for (; size; size--)
        crc = __crc32cb(crc, *data++);
#else
    for (; size; size--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82f63b78 & -(crc & 1));
    }
#endif
    return ~crc;
}

/* The rest of a length whose four bits are all ones; -1 if it has no end. */
static ptrdiff_t more(const uint8_t **from, const uint8_t *end)
{
    ptrdiff_t sum = 0;
    while (*from < end) {
        sum += **from;
        if (*(*from)++ != ONES)
            return sum;
    }
    return -1;
}

/* Unpack a block of LZ4 that has exactly `size` bytes, as
https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md says; not 0 if it has not. */
static int unpack(const uint8_t *from, const uint8_t *end, uint8_t *out, ptrdiff_t size)
{
    uint8_t *to = out, *const stop = out + size;
    while (from < end) {
        const unsigned token = *from++;
        ptrdiff_t length = token >> 4, rest = 0;
        if (length == 15 && (rest = more(&from, end)) < 0)
            return 1;
        length += rest;
        if (length > end - from || length > stop - to)
            return 1;
        memcpy(to, from, length);
        to += length, from += length;
        if (from == end)
            return to != stop;
        if (end - from < 2)
            return 1;
        const ptrdiff_t distance = from[0] | from[1] << 8;
        from += 2;
        length = token & 15, rest = 0;
        if (length == 15 && (rest = more(&from, end)) < 0)
            return 1;
        length += rest + 4;
        if (!distance || distance > to - out || length > stop - to)
            return 1;
        /* What repeats itself doubles with each copy. */
        for (ptrdiff_t ready = distance; length;) {
            const ptrdiff_t some = ready < length ? ready : length;
            memcpy(to, to - ready, some);
            to += some, length -= some, ready += some;
        }
    }
    return 1;
}

/* The bases of a chunk from `first` to `last` from its planes of bits; bit_planes.py describes them. */
static void gather(const uint8_t *planes, const Chunks *chunks, int64_t first, int64_t last, uint8_t *out)
{
    const int64_t plane = chunks->chunk / PLANES, begin = first / 8, behind = (last + 7) / 8;
    int used[PLANES], count = 0;
    for (int bit = 0; bit < PLANES; bit++) {
        uint8_t any = 0;
        for (int64_t place = begin; place < behind; place++)
            any |= planes[bit * plane + place];
        if (any)
            used[count++] = bit;
    }
    for (int64_t place = begin; place < behind; place++) {
        uint64_t eight = 0; /* codes, one a byte */
        uint8_t values[8];
        for (int k = 0; k < count; k++) {
            const uint64_t bits = planes[used[k] * plane + place];
            /* The product has bit j of the lower seven at bit 8 j; no other bits meet there. */
            eight |= (((bits & 0x7f) * 0x02040810204081 & 0x01010101010101) | bits >> 7 << 56) << used[k];
        }
        for (int k = 0; k < 8; k++)
            values[k] = chunks->table[eight >> 8 * k & 255];
        const int64_t left = 8 * place < first ? first - 8 * place : 0;
        const int64_t right = 8 * place + 8 > last ? last - 8 * place : 8;
        memcpy(out + 8 * place + left - first, values + left, right - left);
    }
}

static int decode(const Chunks *chunks, const uint8_t *data, int64_t size, uint32_t checksum, int64_t first,
                  int64_t last, uint8_t *planes, uint8_t *out)
{
    size -= CHECKSUM;
    if (size < FRAME || number(data + size) != checksum || crc32c(data, size) != checksum)
        return 1;
    /* One block of LZ4 with bit shuffle, a byte an element; the chunk's bytes, twice; the frame's; where it begins;
    its bytes. */
    const uint32_t chunk = (uint32_t)chunks->chunk;
    const uint32_t form[6] = {0x01240102, chunk, chunk, (uint32_t)size, FRAME - 4, (uint32_t)(size - FRAME)};
    if (memcmp(data, form, FRAME) || size - FRAME >= chunk)
        return 1;
    if (unpack(data + FRAME, data + size, planes, chunk))
        return 1;
    gather(planes, chunks, first, last, out);
    return 0;
}

/* What the table makes of the positions from `start` on, (length,), into `out`. */
int first_window(const Chunks *chunks, int64_t start, int64_t length, uint8_t *out)
{
    const int64_t chunk = chunks->chunk, end = start + length, most = chunk + 64;
    const int64_t first = start / chunk, last = (end - 1) / chunk, shard = first / chunks->per_shard;
    if (chunk % PLANES || start < 0 || length <= 0 || last >= chunks->count || last / chunks->per_shard != shard)
        return 1;
    const uint64_t *index = chunks->indexes[shard];
    if (!index || memchr(chunks->touched + first, 1, last + 1 - first))
        return 1;
    index += 2 * (first - shard * chunks->per_shard);
    const int64_t together = last + 1 - first < RUN ? last + 1 - first : RUN;
    uint8_t *const planes = malloc((together + 1) * most), *const data = planes + most;
    int failed = !planes;
    for (int64_t run = first; run <= last && !failed; run += RUN) {
        const int64_t behind = run + RUN <= last ? run + RUN : last + 1;
        const uint64_t *const of_run = index + 2 * (run - first), offset = of_run[0];
        uint64_t total = 0;
        for (int64_t k = run; k < behind && !failed; k++) {
            const uint64_t *place = index + 2 * (k - first);
            failed = place[0] != offset + total || place[1] > (uint64_t)most;
            total += place[1];
        }
        failed = failed || pread(chunks->files[shard], data, total, (off_t)offset) != (ssize_t)total;
        const uint8_t *from = data;
        for (int64_t k = run; k < behind && !failed; k++) {
            const int64_t size = (int64_t)index[2 * (k - first) + 1], left = k * chunk;
            const int64_t begin = start > left ? start : left, stop = end < left + chunk ? end : left + chunk;
            failed = decode(chunks, from, size, chunks->checksums[k], begin - left, stop - left, planes,
                            out + (begin - start));
            from += size;
        }
    }
    free(planes);
    if (!failed)
        memset(chunks->touched + first, 1, last + 1 - first);
    return failed;
}
