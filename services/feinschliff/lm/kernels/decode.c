/* What one step of many answers needs beside matrix products, in plain C; see decode.h.
 *
 * A framework pays some microseconds for each of the dozens of small steps around a product, more than the step
 * itself takes for one token. Plain loops, no intrinsics: the compiler makes vectors of them for any processor. */
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define WORTH_A_THREAD 16384 /* numbers */
#define SHARED_MAX 16 /* query heads of one key head */
#define HEAD_MAX 256  /* size of a head */
#define BLOCK 64      /* positions, or outputs, at a time */
#define RANKS 64      /* at a time */
#define PART 8192     /* numbers at a time */

/* Threads are borrowed from whoever computes the products: its pool waits for work already. GNU OpenMP's entry. */
typedef void (*Parallel)(void (*part)(void *), void *work, unsigned threads, unsigned flags);
typedef void (*Item)(const void *arguments, int64_t number);

static Parallel parallel;
static unsigned threads = 1;

void use_threads(Parallel with, unsigned count) {
    parallel = with;
    threads = count;
}

typedef struct {
    _Atomic int64_t next;
    int64_t count;
    Item item;
    const void *arguments;
} Work;

static void take(void *shared) {
    Work *work = shared;
    for (int64_t number; (number = atomic_fetch_add(&work->next, 1)) < work->count;) work->item(work->arguments, number);
}

/* Calls item(arguments, 0 ... count - 1), by several threads where that is worth it. */
static void each(int64_t count, Item item, const void *arguments, int is_worth_it) {
    Work work = {0, count, item, arguments};
    if (is_worth_it && count > 1 && parallel && threads > 1)
        parallel(take, &work, threads < count ? threads : (unsigned)count, 0);
    else
        take(&work);
}

static inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* e^x to 2 units in the last place: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes, expf). */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = floorf(x * 1.44269504088896341f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * from_bits((uint32_t)((int32_t)n + 127) << 23);
}

static inline float widen_bf16(uint16_t x) { return from_bits((uint32_t)x << 16); }

/* To the nearest, ties to even; not a number stays one. */
static inline uint16_t narrow_bf16(float x) {
    uint32_t bits = to_bits(x), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(x != x ? 0x7fc0u : rounded);
}

#define REAL uint16_t
#define WIDEN(x) widen_bf16(x)
#define NARROW(x) narrow_bf16(x)
#define NAME(x) x##_bf16
#include "decode.h"
#undef REAL
#undef WIDEN
#undef NARROW
#undef NAME

#define REAL float
#define WIDEN(x) (x)
#define NARROW(x) (x)
#define NAME(x) x##_fp32
#include "decode.h"
