/* Attention of tokens to the caches of their rows, for one type of numbers: REAL, WIDEN, NARROW and NAME as in decode.h,
 * CHUNK numbers in 64 bytes, DOT_CHUNK(sums, one, two), which adds their products to 16 sums, and WIDE(chunk, half), its
 * numbers as floats: those at even places and those at odd ones, or only one half that has all. */

#define CHUNKS_MAX (HEAD_MAX / CHUNK)

typedef struct {
    REAL *q;
    const REAL *k, *v;
    REAL *out;
    const float *cosines, *sines;
    REAL *const *caches;
    const int64_t *capacities, *positions;
    int64_t layer, heads, groups, size, window;
    float scale;
} NAME(Attention);

static inline void NAME(turn)(const REAL *from, REAL *to, const float *cosine, const float *sine, int64_t size) {
    int64_t half = size / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float one = WIDEN(from[i]), two = WIDEN(from[i + half]);
        to[i] = NARROW(one * cosine[i] - two * sine[i]);
        to[i + half] = NARROW(two * cosine[i + half] + one * sine[i + half]);
    }
}

/* Numbers first ... first + CHUNK - 1 of a head; behind its end stands 0. */
static inline Bits NAME(chunk)(const REAL *head, int64_t first, int64_t size) {
    Bits chunk = {0};
    if (first + CHUNK <= size)
        memcpy(&chunk, head + first, sizeof chunk);
    else
        memcpy(&chunk, head + first, (size_t)(size - first) * sizeof(REAL));
    return chunk;
}

/* scores[t] = query . key t, of 16 keys or of the `count` that there are. */
static inline __attribute__((always_inline)) Numbers NAME(score_keys)(const Bits *query, const REAL *keys, int64_t size,
                                                                      int64_t count, const int64_t chunks) {
    Numbers sums[LANES];
    for (int64_t t = 0; t < LANES; t++) {
        sums[t] = (Numbers){0};
        if (t < count)
            for (int64_t c = 0; c < chunks; c++) DOT_CHUNK(sums[t], query[c], NAME(chunk)(keys + t * size, c * CHUNK, size));
    }
    return sums_of(sums);
}

static void NAME(score)(const Bits *query, const REAL *keys, float *scores, int64_t size, int64_t count, float scale) {
    int64_t chunks = (size + CHUNK - 1) / CHUNK;
    for (int64_t t = 0; t < count; t += LANES) {
        int64_t here = count - t < LANES ? count - t : LANES;
        const REAL *from = keys + t * size;
        Numbers found;
        if (size == 2 * CHUNK && here == LANES) /* the sizes of most heads, without loops */
            found = NAME(score_keys)(query, from, 2 * CHUNK, LANES, 2);
        else if (size == 4 * CHUNK && here == LANES)
            found = NAME(score_keys)(query, from, 4 * CHUNK, LANES, 4);
        else
            found = NAME(score_keys)(query, from, size, here, chunks);
        found *= scale;
        memcpy(scores + t, &found, sizeof found);
    }
}

/* sums = sums * fade + weights . values, of one chunk of all values and `heads` heads; sums[head][chunk][half]. */
static inline __attribute__((always_inline)) void NAME(add_values)(Numbers *sums, const float *weights, const float *fades,
                                                                   const REAL *values, int64_t chunk, int64_t size,
                                                                   int64_t count, const int heads) {
    Numbers found[HEADS_TOGETHER][HALVES];
    UNROLL for (int head = 0; head < heads; head++)
        for (int half = 0; half < HALVES; half++) found[head][half] = sums[head * CHUNKS_MAX * HALVES + half] * fades[head];
    for (int64_t t = 0; t < count; t++) {
        Bits value = NAME(chunk)(values + t * size, chunk * CHUNK, size);
        UNROLL for (int head = 0; head < heads; head++)
            for (int half = 0; half < HALVES; half++) found[head][half] += WIDE(value, half) * weights[head * BLOCK + t];
    }
    UNROLL for (int head = 0; head < heads; head++)
        for (int half = 0; half < HALVES; half++) sums[head * CHUNKS_MAX * HALVES + half] = found[head][half];
}

static void NAME(add_block)(Numbers *sums, const float *weights, const float *fades, const REAL *values, int64_t size,
                            int64_t count, int64_t heads) {
    for (int64_t chunk = 0; chunk * CHUNK < size; chunk++)
        for (int64_t head = 0; head < heads; head += HEADS_TOGETHER) {
            Numbers *to = sums + (head * CHUNKS_MAX + chunk) * HALVES;
            const float *from = weights + head * BLOCK, *fade = fades + head;
#define HEADS(n) NAME(add_values)(to, from, fade, values, chunk, size, count, n)
            switch (heads - head) {
            case 1: HEADS(1); break;
            case 2: HEADS(2); break;
            case 3: HEADS(3); break;
            default: HEADS(4);
            }
#undef HEADS
        }
}

static void NAME(attend_group)(const void *arguments, int64_t item) {
    const NAME(Attention) *a = arguments;
    int64_t size = a->size, shared = a->heads / a->groups, row = item / a->groups, group = item % a->groups;
    int64_t at = a->positions[row], capacity = a->capacities[row];
    const REAL *keys = a->caches[row] + (a->layer * 2 * a->groups + group) * capacity * size;
    const REAL *values = keys + a->groups * capacity * size;

    Bits queries[SHARED_MAX][CHUNKS_MAX];
    Numbers sums[SHARED_MAX * CHUNKS_MAX * HALVES];
    float scores[SHARED_MAX * BLOCK], most[SHARED_MAX], total[SHARED_MAX], fades[SHARED_MAX];
    int64_t first_head = row * a->heads + group * shared;
    for (int64_t head = 0; head < shared; head++) {
        const REAL *query = a->q + (first_head + head) * size;
        for (int64_t c = 0; c * CHUNK < size; c++) queries[head][c] = NAME(chunk)(query, c * CHUNK, size);
        most[head] = -INFINITY;
        total[head] = 0;
    }
    memset(sums, 0, (size_t)shared * CHUNKS_MAX * HALVES * sizeof(Numbers));
    int64_t first = a->window && at >= a->window ? at - a->window + 1 : 0;
    for (int64_t begin = first; begin <= at; begin += BLOCK) {
        int64_t count = at + 1 - begin < BLOCK ? at + 1 - begin : BLOCK;
        for (int64_t head = 0; head < shared; head++) {
            float *mine = scores + head * BLOCK, highest = most[head], sum = 0;
            NAME(score)(queries[head], keys + begin * size, mine, size, count, a->scale);
            for (int64_t t = 0; t < count; t++) highest = mine[t] > highest ? mine[t] : highest;
#pragma omp simd reduction(+ : sum)
            for (int64_t t = 0; t < count; t++) {
                mine[t] = exponential(mine[t] - highest);
                sum += mine[t];
            }
            fades[head] = expf(most[head] - highest);
            most[head] = highest;
            total[head] = total[head] * fades[head] + sum;
        }
        NAME(add_block)(sums, scores, fades, values + begin * size, size, count, shared);
    }
    for (int64_t head = 0; head < shared; head++) {
        const float *sum = (const float *)(sums + head * CHUNKS_MAX * HALVES);
        REAL *out = a->out + (first_head + head) * size;
        for (int64_t i = 0; i < size; i++)
            out[i] = NARROW(sum[i / CHUNK * CHUNK + i % HALVES * LANES + i % CHUNK / HALVES] / total[head]);
    }
}

static void NAME(store_token)(const void *arguments, int64_t row) {
    const NAME(Attention) *a = arguments;
    int64_t size = a->size, at = a->positions[row], capacity = a->capacities[row];
    const float *cosine = a->cosines + at * size, *sine = a->sines + at * size;
    REAL turned[HEAD_MAX];
    for (int64_t group = 0; group < a->groups; group++) {
        REAL *keys = a->caches[row] + (a->layer * 2 * a->groups + group) * capacity * size;
        REAL *values = keys + a->groups * capacity * size;
        int64_t from = (row * a->groups + group) * size;
        NAME(turn)(a->k + from, keys + at * size, cosine, sine, size);
        memcpy(values + at * size, a->v + from, (size_t)size * sizeof(REAL));
    }
    for (int64_t head = 0; head < a->heads; head++) {
        REAL *query = a->q + (row * a->heads + head) * size;
        NAME(turn)(query, turned, cosine, sine, size);
        memcpy(query, turned, (size_t)size * sizeof(REAL));
    }
}

/* One token of each row, or some of the same row: turns queries where they lie by the token's position, puts turned keys
 * and values into the row's cache.
 *
 * q (rows, heads, size), k and v (rows, groups, size); cosines and sines (positions, size).
 * caches[row]: of the row's block (layers, 2, groups, capacities[row], size); positions[row]: of the token. */
void NAME(store)(REAL *q, const REAL *k, const REAL *v, const float *cosines, const float *sines, REAL *const *caches,
                 const int64_t *capacities, const int64_t *positions, int64_t layer, int64_t rows, int64_t heads,
                 int64_t groups, int64_t size) {
    NAME(Attention) arguments = {q,          k,         v,     0,     cosines, sines, caches,
                                 capacities, positions, layer, heads, groups,  size,  0,     0};
    each(rows, NAME(store_token), &arguments, rows * heads * size > WORTH_A_THREAD);
}

/* What turned queries find in their cache up to their own position, or in its last `window` positions where that is not 0.
 * Softmax goes block by block (Milakov and Gimelshein 2018, arXiv:1805.02867). Shapes as for store, out as q. */
void NAME(attend)(REAL *q, REAL *out, REAL *const *caches, const int64_t *capacities, const int64_t *positions,
                  int64_t layer, int64_t rows, int64_t heads, int64_t groups, int64_t size, int64_t window, float scale) {
    NAME(Attention) arguments = {q,          0,         0,     out,   0,      0,    caches,
                                 capacities, positions, layer, heads, groups, size, window, scale};
    each(rows * groups, NAME(attend_group), &arguments, 1);
}
