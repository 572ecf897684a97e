/* Products with fixed weights for one type of numbers: REAL, WIDEN, NARROW and NAME as in decode.h, TOGETHER inputs a
 * step takes together, and DOT(sums, x, weights), which adds their products to 16 sums.
 *
 * Weights lie as panels of COLUMNS outputs: for every step the TOGETHER weights of one output, then of the next, so that a
 * panel is read from its first byte to its last. A sum goes through the inputs in their order whatever the number of rows:
 * a row's numbers never depend on the others, bit for bit. */

/* packed: ceil(out / COLUMNS) panels of in / TOGETHER steps; in is a multiple of TOGETHER. */
void NAME(pack)(const REAL *weight, REAL *packed, int64_t in, int64_t out) {
    for (int64_t first = 0; first < out; first += COLUMNS)
        for (int64_t step = 0; step < in; step += TOGETHER)
            for (int64_t column = first; column < first + COLUMNS; column++)
                for (int64_t i = step; i < step + TOGETHER; i++) *packed++ = column < out ? weight[column * in + i] : 0;
}

/* A row of the weights again: inputs of one output. */
void NAME(unpack)(const REAL *packed, REAL *row, int64_t in, int64_t output) {
    const REAL *at = packed + output / COLUMNS * COLUMNS * in + output % COLUMNS * TOGETHER;
    for (int64_t i = 0; i < in; i += TOGETHER, at += COLUMNS * TOGETHER)
        for (int64_t j = 0; j < TOGETHER; j++) row[i + j] = at[j];
}

static __attribute__((noinline)) void NAME(round_tile)(const float *sums, const REAL *bias, REAL *y, int64_t out,
                                                       int64_t columns, int rows) {
    for (int row = 0; row < rows; row++, sums += COLUMNS, y += out)
#pragma omp simd
        for (int64_t i = 0; i < columns; i++) y[i] = NARROW(bias ? sums[i] + WIDEN(bias[i]) : sums[i]);
}

/* `rows` is a constant wherever this is used: the sums stay in registers. */
static inline __attribute__((always_inline)) void NAME(tile)(const REAL *x, const REAL *panel, const REAL *bias, REAL *y,
                                                             int64_t in, int64_t out, int64_t columns, const int rows) {
    Numbers sums[TILE_ROWS][2];
    UNROLL for (int row = 0; row < rows; row++) sums[row][0] = sums[row][1] = (Numbers){0};
    for (int64_t i = 0; i < in; i += TOGETHER, panel += COLUMNS * TOGETHER) {
        Numbers weights[2];
        memcpy(weights, panel, sizeof weights);
        UNROLL for (int row = 0; row < rows; row++) {
            DOT(sums[row][0], x + row * in + i, weights[0]);
            DOT(sums[row][1], x + row * in + i, weights[1]);
        }
    }
    float found[TILE_ROWS][COLUMNS];
    UNROLL for (int row = 0; row < rows; row++) memcpy(found[row], sums[row], sizeof sums[row]);
    NAME(round_tile)(found[0], bias, y, out, columns, rows);
}

typedef struct {
    const REAL *x, *packed, *bias;
    REAL *y;
    int64_t rows, in, out;
} NAME(Product);

static void NAME(panel)(const void *arguments, int64_t number) {
    const NAME(Product) *a = arguments;
    int64_t first = number * COLUMNS, columns = a->out - first < COLUMNS ? a->out - first : COLUMNS;
    const REAL *panel = a->packed + first * a->in, *bias = a->bias ? a->bias + first : 0;
    int64_t tiles = (a->rows + TILE_ROWS - 1) / TILE_ROWS, row = 0;
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t rows = (a->rows - row + tiles - tile - 1) / (tiles - tile); /* all tiles about as high */
        const REAL *x = a->x + row * a->in;
        REAL *y = a->y + row * a->out + first;
#define TILE(n) case n: NAME(tile)(x, panel, bias, y, a->in, a->out, columns, n); break;
        switch (rows) { TILES(TILE) }
#undef TILE
        row += rows;
    }
}

/* y (rows, out) = x (rows, in) W' + bias (out, or null), rounded once. */
void NAME(multiply)(const REAL *x, const REAL *packed, const REAL *bias, REAL *y, int64_t rows, int64_t in, int64_t out) {
    NAME(Product) arguments = {x, packed, bias, y, rows, in, out};
    each(PANELS(out), NAME(panel), &arguments, rows * in * out > WORTH_A_THREAD * 16);
}
