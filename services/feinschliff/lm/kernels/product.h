/* Products with fixed weights for one type of numbers: REAL, WIDEN, NARROW and NAME as in decode.h, TOGETHER inputs a
 * step takes together, and DOT(sums, x, weights), which adds their products to 16 sums. Weights are of that type, or bytes
 * with a scale for each output: of 16 outputs' BYTES, FROM_BYTES(bytes, n) makes the n-th TOGETHER weights, times 2^24.
 *
 * Weights lie as panels of COLUMNS outputs: for every step the weights of one output that fill 32 bits, then of the next, so
 * that a panel is read from its first byte to its last. A sum goes through the inputs in their order whatever the number of rows:
 * a row's numbers never depend on the others, bit for bit. */

static __attribute__((noinline)) void NAME(round_tile)(float *sums, const float *scales, const REAL *bias, REAL *y,
                                                       int64_t out, int64_t columns, int rows) {
    for (int row = 0; row < rows; row++, sums += COLUMNS, y += out) {
        if (scales)
#pragma omp simd
            for (int64_t i = 0; i < columns; i++) sums[i] *= scales[i];
#pragma omp simd
        for (int64_t i = 0; i < columns; i++) y[i] = NARROW(bias ? sums[i] + WIDEN(bias[i]) : sums[i]);
    }
}

/* `rows` and `is_bytes` are constants wherever this is used: the sums stay in registers. */
static inline __attribute__((always_inline)) void NAME(tile)(const REAL *x, const char *panel, const float *scales,
                                                             const REAL *bias, REAL *y, int64_t in, int64_t out,
                                                             int64_t columns, const int rows, const int is_bytes) {
    const int inputs = is_bytes ? BYTES : TOGETHER;
    Numbers sums[TILE_ROWS][2];
    UNROLL for (int row = 0; row < rows; row++) sums[row][0] = sums[row][1] = (Numbers){0};
    for (int64_t i = 0; i < in; i += inputs, panel += 2 * sizeof(Numbers)) {
        Numbers read[2], weights[2];
        memcpy(&read[0], panel, sizeof(Numbers)); /* one copy of both would go by way of the stack */
        memcpy(&read[1], panel + sizeof(Numbers), sizeof(Numbers));
        __builtin_prefetch(panel + AHEAD);
        __builtin_prefetch(panel + AHEAD + sizeof(Numbers));
        UNROLL for (int n = 0; n < inputs / TOGETHER; n++) {
            UNROLL for (int half = 0; half < 2; half++)
                weights[half] = is_bytes ? FROM_BYTES((Bits)read[half], n) : read[half];
            UNROLL for (int row = 0; row < rows; row++) {
                DOT(sums[row][0], x + row * in + i + n * TOGETHER, weights[0]);
                DOT(sums[row][1], x + row * in + i + n * TOGETHER, weights[1]);
            }
        }
    }
    float found[TILE_ROWS][COLUMNS];
    UNROLL for (int row = 0; row < rows; row++) memcpy(found[row], sums[row], sizeof sums[row]);
    NAME(round_tile)(found[0], scales, bias, y, out, columns, rows);
}

/* scales: of weights of a byte, null for others. */
typedef struct {
    const REAL *x;
    const void *packed;
    const float *scales;
    const REAL *bias;
    REAL *y;
    int64_t rows, in, out;
} NAME(Product);

static void NAME(panel)(const void *arguments, int64_t number) {
    const NAME(Product) *a = arguments;
    int64_t first = number * COLUMNS, columns = a->out - first < COLUMNS ? a->out - first : COLUMNS;
    const char *panel = (const char *)a->packed + first * a->in * (a->scales ? 1 : (int64_t)sizeof(REAL));
    const float *scales = a->scales ? a->scales + first : 0;
    const REAL *bias = a->bias ? a->bias + first : 0;
    int64_t tiles = (a->rows + TILE_ROWS - 1) / TILE_ROWS, row = 0;
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t rows = (a->rows - row + tiles - tile - 1) / (tiles - tile); /* all tiles about as high */
        const REAL *x = a->x + row * a->in;
        REAL *y = a->y + row * a->out + first;
#define TILE(n) case n: NAME(tile)(x, panel, 0, bias, y, a->in, a->out, columns, n, 0); break;
#define TILE_OF_BYTES(n) case n: NAME(tile)(x, panel, scales, bias, y, a->in, a->out, columns, n, 1); break;
        if (scales)
            switch (rows) { TILES(TILE_OF_BYTES) }
        else
            switch (rows) { TILES(TILE) }
#undef TILE
#undef TILE_OF_BYTES
        row += rows;
    }
}

/* y (rows, out) = x (rows, in) W' + bias (out, or null), rounded once; scales (out) of weights of a byte, or null. */
void NAME(multiply)(const REAL *x, const void *packed, const float *scales, const REAL *bias, REAL *y, int64_t rows,
                    int64_t in, int64_t out) {
    NAME(Product) arguments = {x, packed, scales, bias, y, rows, in, out};
    each(PANELS(out), NAME(panel), &arguments, rows * in * out > WORTH_A_THREAD * 16);
}
