/* Tokens of many rows through a whole model of the Llama family, by one team of threads: see decode.h and product.h for
 * the parts, and for REAL and NAME. All structs are mirrored in plan.py. */

typedef struct {
    const void *packed;
    const float *scales; /* of weights of a byte */
    const REAL *bias;
    int64_t in, out;
} NAME(Linear);

typedef struct {
    const REAL *norm, *query_norm, *key_norm, *feed_forward_norm;
    float norm_epsilon, query_epsilon, key_epsilon, feed_forward_epsilon;
    int64_t window;
    NAME(Linear) query, key, value, output, gate, up, down;
} NAME(Layer);

typedef struct {
    const NAME(Layer) *layers;
    const REAL *last_norm;
    NAME(Linear) head;
    int64_t count, width, heads, groups, size;
    float last_epsilon, scale;
} NAME(Model);

/* Tokens: one of each row, or some of a row in their order. `wanted` says of which logits are, all where it is null; that
 * and pairs do not go together. Pairs are (places, rows), the places of a layer in the order of its linears, the head last;
 * null where no row has any. Room between the steps: states, normed and more (rows, width), query and attended
 * (rows, heads, size), key and value (rows, groups, size), gate and up (rows, inner), low (rows, rank_max). */
typedef struct {
    const float *const *a, *const *b;
    const int64_t *ranks;
    const float *scales;
    int64_t rank_max, rows;
    const int64_t *wanted;
    int64_t wanted_rows;
    REAL *const *caches;
    const int64_t *capacities, *positions;
    const float *cosines, *sines;
    REAL *states, *normed, *more, *query, *key, *value, *attended, *gate, *up, *logits;
    float *low;
} NAME(Batch);

typedef struct {
    const NAME(Model) *model;
    const NAME(Batch) *batch;
} NAME(Step);

typedef struct {
    const NAME(Product) *products;
    int64_t count;
} NAME(Products);

static NAME(Product) NAME(product)(const NAME(Linear) *linear, const REAL *x, REAL *y, int64_t rows) {
    return (NAME(Product)){x, linear->packed, linear->scales, linear->bias, y, rows, linear->in, linear->out};
}

static void NAME(panel_of_some)(const void *arguments, int64_t number) {
    const NAME(Products) *a = arguments;
    const NAME(Product) *product = a->products;
    for (int64_t panels; number >= (panels = PANELS(product->out)); product++) number -= panels;
    NAME(panel)(product, number);
}

/* The products of one input with `count` layers of weights, and what each row's pairs add; `place`: of the first. */
static void NAME(through)(Team *team, const NAME(Batch) *b, const REAL *x, const NAME(Linear) *linears, REAL *const *ys,
                          int64_t count, int64_t place) {
    NAME(Product) products[TOGETHER_MAX];
    int64_t panels = 0;
    for (int64_t n = 0; n < count; n++) {
        const NAME(Linear) *linear = &linears[n];
        products[n] = NAME(product)(linear, x, ys[n], b->rows);
        panels += PANELS(linear->out);
    }
    NAME(Products) all = {products, count};
    share(team, panels, NAME(panel_of_some), &all);
    if (!b->a) return;
    for (int64_t n = 0; n < count; n++) {
        int64_t at = (place + n) * b->rows, used = 0;
        for (int64_t row = 0; row < b->rows; row++) used |= b->ranks[at + row];
        if (!used) continue;
        NAME(LowRank) pairs = {x,         ys[n],       b->a + at,      b->b + at,      b->ranks + at, b->scales + at,
                               b->low,    b->rank_max, linears[n].in, linears[n].out};
        share(team, b->rows * RANK_PARTS(b->rank_max), NAME(lower), &pairs);
        share(team, b->rows * OUT_PARTS(pairs.out), NAME(raise), &pairs);
    }
}

static void NAME(norm_rows)(Team *team, REAL *states, const REAL *more, const REAL *weight, REAL *normed, int64_t rows,
                            int64_t width, float epsilon) {
    NAME(Norm) norm = {states, more, weight, normed, width, epsilon};
    share(team, rows, NAME(norm_row), &norm);
}

static void NAME(take_row)(const void *arguments, int64_t number) {
    const NAME(Step) *step = arguments;
    int64_t width = step->model->width;
    const REAL *from = step->batch->normed + step->batch->wanted[number] * width;
    memcpy(step->batch->more + number * width, from, (size_t)width * sizeof(REAL));
}

static void NAME(step_part)(Team *team, const void *arguments) {
    const NAME(Step) *step = arguments;
    const NAME(Model) *m = step->model;
    const NAME(Batch) *b = step->batch;
    int64_t rows = b->rows;
    const REAL *more = 0;
    for (int64_t n = 0; n < m->count; n++) {
        const NAME(Layer) *layer = &m->layers[n];
        int64_t place = n * LINEARS;
        NAME(norm_rows)(team, b->states, more, layer->norm, b->normed, rows, m->width, layer->norm_epsilon);
        NAME(through)(team, b, b->normed, &layer->query, (REAL *[]){b->query, b->key, b->value}, 3, place);
        if (layer->query_norm)
            NAME(norm_rows)(team, b->query, 0, layer->query_norm, b->query, rows * m->heads, m->size, layer->query_epsilon);
        if (layer->key_norm)
            NAME(norm_rows)(team, b->key, 0, layer->key_norm, b->key, rows * m->groups, m->size, layer->key_epsilon);
        NAME(Attention) attention = {b->query,  b->key,        b->value,     b->attended, b->cosines, b->sines,
                                     b->caches, b->capacities, b->positions, n,           m->heads,   m->groups,
                                     m->size,   layer->window, m->scale};
        share(team, rows, NAME(store_token), &attention);
        share(team, rows * m->groups, NAME(attend_group), &attention);
        NAME(through)(team, b, b->attended, &layer->output, (REAL *[]){b->more}, 1, place + 3);
        NAME(norm_rows)(team, b->states, b->more, layer->feed_forward_norm, b->normed, rows, m->width,
                        layer->feed_forward_epsilon);
        NAME(through)(team, b, b->normed, &layer->gate, (REAL *[]){b->gate, b->up}, 2, place + 4);
        NAME(Gate) gate = {b->gate, b->up, rows * layer->gate.out};
        share(team, (gate.count + GATES - 1) / GATES, NAME(gate_part), &gate);
        NAME(through)(team, b, b->gate, &layer->down, (REAL *[]){b->more}, 1, place + 6);
        more = b->more;
    }
    NAME(norm_rows)(team, b->states, more, m->last_norm, b->normed, rows, m->width, m->last_epsilon);
    if (!b->wanted) {
        NAME(through)(team, b, b->normed, &m->head, (REAL *[]){b->logits}, 1, m->count * LINEARS);
        return;
    }
    share(team, b->wanted_rows, NAME(take_row), arguments);
    NAME(Product) head = NAME(product)(&m->head, b->more, b->logits, b->wanted_rows);
    share(team, PANELS(m->head.out), NAME(panel), &head);
}

/* From the states of the tokens' embeddings, which it changes, to the logits (rows or wanted_rows, vocabulary). */
void NAME(step)(const NAME(Model) *model, const NAME(Batch) *batch) {
    NAME(Step) arguments = {model, batch};
    together(NAME(step_part), &arguments, threads);
}
