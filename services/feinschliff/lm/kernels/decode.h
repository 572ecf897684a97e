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
    int64_t begin = part * GATES, end = begin + GATES < a->count ? begin + GATES : a->count;
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
    each((count + GATES - 1) / GATES, NAME(gate_part), &arguments, count > WORTH_A_THREAD);
}

typedef struct {
    const REAL *x;
    REAL *y;
    const float *const *a, *const *b;
    const int64_t *ranks;
    const float *scales;
    float *low;
    int64_t rank_max, in, out;
} NAME(LowRank);

#define RANK_PARTS(rank_max) (((rank_max) + RANKS - 1) / RANKS)
#define OUT_PARTS(out) (((out) + OUTPUTS - 1) / OUTPUTS)

static void NAME(lower)(const void *arguments, int64_t item) {
    const NAME(LowRank) *l = arguments;
    int64_t parts = RANK_PARTS(l->rank_max), row = item / parts, in = l->in, ranks = l->ranks[row];
    int64_t first = item % parts * RANKS, end = first + RANKS < ranks ? first + RANKS : ranks;
    const REAL *x = l->x + row * in;
    for (int64_t rank = first; rank < end; rank++) {
        const float *weights = l->a[row] + rank * in;
        float product = 0;
#pragma omp simd reduction(+ : product)
        for (int64_t i = 0; i < in; i++) product += weights[i] * WIDEN(x[i]);
        l->low[row * l->rank_max + rank] = product * l->scales[row];
    }
}

static void NAME(raise)(const void *arguments, int64_t item) {
    const NAME(LowRank) *l = arguments;
    int64_t parts = OUT_PARTS(l->out), row = item / parts, out = l->out, ranks = l->ranks[row];
    int64_t first = item % parts * OUTPUTS, width = out - first < OUTPUTS ? out - first : OUTPUTS;
    if (!ranks) return;
    REAL *y = l->y + row * out + first;
    const float *low = l->low + row * l->rank_max;
    float sums[OUTPUTS];
    for (int64_t i = 0; i < width; i++) sums[i] = WIDEN(y[i]);
    for (int64_t rank = 0; rank < ranks; rank++) {
        const float *weights = l->b[row] + rank * out + first;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) sums[i] += low[rank] * weights[i];
    }
    for (int64_t i = 0; i < width; i++) y[i] = NARROW(sums[i]);
}

/* y (rows, out) += scale (x A') B for each row's own A (rank, in) and B (rank, out), rounded once; a row of rank 0 has
 * none. low (rows, rank_max): room for what lies between. */
void NAME(add_low_rank)(const REAL *x, REAL *y, const float *const *a, const float *const *b, const int64_t *ranks,
                        const float *scales, float *low, int64_t rank_max, int64_t rows, int64_t in, int64_t out) {
    NAME(LowRank) arguments = {x, y, a, b, ranks, scales, low, rank_max, in, out};
    each(rows * RANK_PARTS(rank_max), NAME(lower), &arguments, rows * rank_max * in > WORTH_A_THREAD);
    each(rows * OUT_PARTS(out), NAME(raise), &arguments, rows * rank_max * out > WORTH_A_THREAD);
}

typedef struct {
    const REAL *logits;
    int64_t *tokens;
    int64_t vocabulary;
} NAME(Choice);

static void NAME(choose_row)(const void *arguments, int64_t row) {
    const NAME(Choice) *a = arguments;
    const REAL *logits = a->logits + row * a->vocabulary;
    float most = -INFINITY;
    int32_t unknown = 0;
#pragma omp simd reduction(max : most) reduction(+ : unknown)
    for (int64_t i = 0; i < a->vocabulary; i++) {
        float x = WIDEN(logits[i]);
        most = x > most ? x : most;
        unknown += x != x;
    }
    a->tokens[row] = -1;
    if (unknown || isinf(most)) return;
    for (int64_t i = 0; i < a->vocabulary; i++)
        if (WIDEN(logits[i]) == most) {
            a->tokens[row] = i;
            return;
        }
}

/* tokens[row]: the first of the largest logits (rows, vocabulary); -1 where that is not finite or one is not a number. */
void NAME(likeliest)(const REAL *logits, int64_t *tokens, int64_t rows, int64_t vocabulary) {
    NAME(Choice) arguments = {logits, tokens, vocabulary};
    each(rows, NAME(choose_row), &arguments, rows * vocabulary > WORTH_A_THREAD);
}
