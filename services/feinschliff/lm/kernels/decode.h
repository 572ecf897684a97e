/* The kernels for one type of numbers: REAL, which WIDEN makes a float of and NARROW makes of a float, and NAME(x).
 * Everything between reading and writing is a float. Rows are independent: what one gets never depends on another. */

typedef struct {
    REAL *states;
    const REAL *more, *weight;
    REAL *normed;
    int64_t width;
    float epsilon;
} NAME(Norm);

static void NAME(norm_row)(const void *arguments, int64_t row) {
    const NAME(Norm) *a = arguments;
    int64_t width = a->width;
    REAL *x = a->states + row * width, *out = a->normed + row * width;
    const REAL *weight = a->weight;
    if (a->more) {
        const REAL *more = a->more + row * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) x[i] = NARROW(WIDEN(x[i]) + WIDEN(more[i]));
    }
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < width; i++) squares += WIDEN(x[i]) * WIDEN(x[i]);
    float factor = 1.0f / sqrtf(squares / (float)width + a->epsilon);
#pragma omp simd
    for (int64_t i = 0; i < width; i++) out[i] = NARROW(WIDEN(NARROW(WIDEN(x[i]) * factor)) * WIDEN(weight[i]));
}

/* states += more (where given), rounded; normed = states / rms(states), rounded, times weight. (rows, width) each. */
void NAME(add_rms_norm)(REAL *states, const REAL *more, const REAL *weight, REAL *normed, int64_t rows, int64_t width,
                        float epsilon) {
    NAME(Norm) arguments = {states, more, weight, normed, width, epsilon};
    each(rows, NAME(norm_row), &arguments, rows * width > WORTH_A_THREAD);
}

typedef struct {
    REAL *gate;
    const REAL *up;
    int64_t count;
} NAME(Gate);

static void NAME(gate_part)(const void *arguments, int64_t part) {
    const NAME(Gate) *a = arguments;
    int64_t begin = part * PART, end = begin + PART < a->count ? begin + PART : a->count;
    REAL *gate = a->gate;
    const REAL *up = a->up;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        float g = WIDEN(gate[i]);
        gate[i] = NARROW(WIDEN(NARROW(g / (1.0f + exponential(-g)))) * WIDEN(up[i]));
    }
}

/* gate = silu(gate), rounded, times up. */
void NAME(silu_mul)(REAL *gate, const REAL *up, int64_t count) {
    NAME(Gate) arguments = {gate, up, count};
    each((count + PART - 1) / PART, NAME(gate_part), &arguments, count > WORTH_A_THREAD);
}

typedef struct {
    const REAL *q, *k, *v;
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

static void NAME(attend_group)(const void *arguments, int64_t item) {
    const NAME(Attention) *a = arguments;
    int64_t size = a->size, shared = a->heads / a->groups, row = item / a->groups, group = item % a->groups;
    int64_t at = a->positions[row], capacity = a->capacities[row];
    const float *cosine = a->cosines + at * size, *sine = a->sines + at * size;
    REAL *keys = a->caches[row] + (a->layer * 2 * a->groups + group) * capacity * size;
    REAL *values = keys + a->groups * capacity * size;
    NAME(turn)(a->k + item * size, keys + at * size, cosine, sine, size);
    memcpy(values + at * size, a->v + item * size, (size_t)size * sizeof(REAL));

    float queries[SHARED_MAX * HEAD_MAX], sums[SHARED_MAX * HEAD_MAX], scores[SHARED_MAX][BLOCK];
    float most[SHARED_MAX], total[SHARED_MAX];
    REAL turned[HEAD_MAX];
    int64_t first_head = row * a->heads + group * shared;
    for (int64_t head = 0; head < shared; head++) {
        NAME(turn)(a->q + (first_head + head) * size, turned, cosine, sine, size);
        for (int64_t i = 0; i < size; i++) queries[head * size + i] = WIDEN(turned[i]);
        for (int64_t i = 0; i < size; i++) sums[head * size + i] = 0;
        most[head] = -INFINITY;
        total[head] = 0;
    }
    int64_t first = a->window && at >= a->window ? at - a->window + 1 : 0;
    for (int64_t begin = first; begin <= at; begin += BLOCK) {
        int64_t count = at + 1 - begin < BLOCK ? at + 1 - begin : BLOCK;
        for (int64_t t = 0; t < count; t++) {
            const REAL *key = keys + (begin + t) * size;
            for (int64_t head = 0; head < shared; head++) {
                const float *query = queries + head * size;
                float product = 0;
#pragma omp simd reduction(+ : product)
                for (int64_t i = 0; i < size; i++) product += query[i] * WIDEN(key[i]);
                scores[head][t] = product * a->scale;
            }
        }
        for (int64_t head = 0; head < shared; head++) {
            float highest = most[head], sum = 0;
            for (int64_t t = 0; t < count; t++) highest = scores[head][t] > highest ? scores[head][t] : highest;
            float fade = expf(most[head] - highest);
#pragma omp simd reduction(+ : sum)
            for (int64_t t = 0; t < count; t++) {
                scores[head][t] = exponential(scores[head][t] - highest);
                sum += scores[head][t];
            }
            most[head] = highest;
            total[head] = total[head] * fade + sum;
            for (int64_t i = 0; i < size; i++) sums[head * size + i] *= fade;
        }
        for (int64_t t = 0; t < count; t++) {
            const REAL *value = values + (begin + t) * size;
            for (int64_t head = 0; head < shared; head++) {
                float weight = scores[head][t], *to = sums + head * size;
#pragma omp simd
                for (int64_t i = 0; i < size; i++) to[i] += weight * WIDEN(value[i]);
            }
        }
    }
    for (int64_t head = 0; head < shared; head++)
        for (int64_t i = 0; i < size; i++)
            a->out[(first_head + head) * size + i] = NARROW(sums[head * size + i] / total[head]);
}

/* One token of each row: turns its queries and keys by its position, puts key and value into the row's cache, and
 * attends to all of the cache, or to its last `window` positions where that is not 0. Softmax goes block by block
 * (Milakov and Gimelshein 2018, arXiv:1805.02867).
 *
 * q (rows, heads, size), k and v (rows, groups, size), out as q; cosines and sines (positions, size).
 * caches[row]: of the row's block (layers, 2, groups, capacities[row], size); positions[row]: of the token. */
void NAME(attend)(const REAL *q, const REAL *k, const REAL *v, REAL *out, const float *cosines, const float *sines,
                  REAL *const *caches, const int64_t *capacities, const int64_t *positions, int64_t layer, int64_t rows,
                  int64_t heads, int64_t groups, int64_t size, int64_t window, float scale) {
    NAME(Attention) arguments = {q,          k,         v,     out,   cosines, sines, caches,
                                 capacities, positions, layer, heads, groups,  size,  window, scale};
    each(rows * groups, NAME(attend_group), &arguments, 1);
}

typedef struct {
    REAL *q;
    const REAL *k, *v;
    const float *cosines, *sines;
    REAL *cache;
    int64_t capacity, position, layer, heads, groups, size;
} NAME(Reading);

static void NAME(store_token)(const void *arguments, int64_t token) {
    const NAME(Reading) *a = arguments;
    int64_t size = a->size, at = a->position + token;
    const float *cosine = a->cosines + at * size, *sine = a->sines + at * size;
    REAL turned[HEAD_MAX];
    for (int64_t group = 0; group < a->groups; group++) {
        REAL *keys = a->cache + (a->layer * 2 * a->groups + group) * a->capacity * size;
        REAL *values = keys + a->groups * a->capacity * size;
        NAME(turn)(a->k + (token * a->groups + group) * size, keys + at * size, cosine, sine, size);
        memcpy(values + at * size, a->v + (token * a->groups + group) * size, (size_t)size * sizeof(REAL));
    }
    for (int64_t head = 0; head < a->heads; head++) {
        REAL *query = a->q + (token * a->heads + head) * size;
        NAME(turn)(query, turned, cosine, sine, size);
        memcpy(query, turned, (size_t)size * sizeof(REAL));
    }
}

/* Tokens of one row from `position` on: turns queries where they lie, puts turned keys and values into the cache.
 * Shapes as for attend, with tokens in place of rows. */
void NAME(store)(REAL *q, const REAL *k, const REAL *v, const float *cosines, const float *sines, REAL *cache,
                 int64_t capacity, int64_t position, int64_t layer, int64_t tokens, int64_t heads, int64_t groups,
                 int64_t size) {
    NAME(Reading) arguments = {q, k, v, cosines, sines, cache, capacity, position, layer, heads, groups, size};
    each(tokens, NAME(store_token), &arguments, tokens * heads * size > WORTH_A_THREAD);
}

typedef struct {
    const REAL *x;
    REAL *y;
    const float *const *a, *const *b;
    const int64_t *ranks;
    const float *scales;
    int64_t in, out;
} NAME(LowRank);

static void NAME(low_rank_row)(const void *arguments, int64_t row) {
    const NAME(LowRank) *l = arguments;
    int64_t in = l->in, out = l->out;
    const REAL *x = l->x + row * in;
    REAL *y = l->y + row * out;
    for (int64_t from = 0; from < l->ranks[row]; from += RANKS) {
        int64_t count = l->ranks[row] - from < RANKS ? l->ranks[row] - from : RANKS;
        float low[RANKS];
        for (int64_t rank = 0; rank < count; rank++) {
            const float *weights = l->a[row] + (from + rank) * in;
            float product = 0;
#pragma omp simd reduction(+ : product)
            for (int64_t i = 0; i < in; i++) product += weights[i] * WIDEN(x[i]);
            low[rank] = product * l->scales[row];
        }
        for (int64_t begin = 0; begin < out; begin += BLOCK) {
            int64_t width = out - begin < BLOCK ? out - begin : BLOCK;
            float sums[BLOCK];
            for (int64_t i = 0; i < width; i++) sums[i] = WIDEN(y[begin + i]);
            for (int64_t rank = 0; rank < count; rank++) {
                const float *weights = l->b[row] + (from + rank) * out + begin;
#pragma omp simd
                for (int64_t i = 0; i < width; i++) sums[i] += low[rank] * weights[i];
            }
            for (int64_t i = 0; i < width; i++) y[begin + i] = NARROW(sums[i]);
        }
    }
}

/* y (rows, out) += scale (x A') B for each row's own A (rank, in) and B (rank, out); a row of rank 0 has none. */
void NAME(add_low_rank)(const REAL *x, REAL *y, const float *const *a, const float *const *b, const int64_t *ranks,
                        const float *scales, int64_t rows, int64_t in, int64_t out) {
    NAME(LowRank) arguments = {x, y, a, b, ranks, scales, in, out};
    each(rows, NAME(low_rank_row), &arguments, rows * (in + out) > WORTH_A_THREAD / 16);
}
